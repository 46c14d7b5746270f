// Finds the accesses that the lanes of a warp make by one instruction, which a GPU serves together.
//
// Fibers run one lane after another, so an access is matched by its place in the source: the k-th
// time that a lane comes there between two waits belongs to the k-th time of the other lanes.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "counters.h"

namespace el_attention::emulator {

enum class Space { kGlobal, kShared };

// What an access is: its name is that of the primitive.
struct Kind {
  const char* name;
  Space space;
  bool writes;
};
inline constexpr Kind kLoadGlobal{"load_global", Space::kGlobal, false};
inline constexpr Kind kStoreGlobal{"store_global", Space::kGlobal, true};
inline constexpr Kind kStoreRelaxed{"store_global_relaxed", Space::kGlobal, true};
inline constexpr Kind kLoadShared{"load_shared", Space::kShared, false};
inline constexpr Kind kStoreShared{"store_shared", Space::kShared, true};
inline constexpr Kind kCopyFrom{"copy_async", Space::kGlobal, false};
inline constexpr Kind kCopyTo{"copy_async", Space::kShared, true};
inline constexpr Kind kLdmatrix{"ldmatrix", Space::kShared, false};

class AccessLog {
 public:
  // `address` in bytes: of global memory, or in the shared memory of the block. `traffic` counts an
  // access of global memory.
  void add(const Kind& kind, Site site, int bytes, int lane, uint64_t address,
           GlobalTraffic* traffic = nullptr);

  // Counts what one warp added since the last time. All its lanes wait.
  void flush(Counters& counters);

  std::vector<SharedSite> shared_sites() const;
  void reset();

 private:
  struct Key {
    const Kind* kind;
    Site site;
    int bytes;
    bool operator==(const Key& other) const;
  };
  struct Hash {
    size_t operator()(const Key& key) const;
  };
  struct WarpAccess {
    uint32_t lanes;  // bit mask
    uint64_t addresses[kLanes];
    GlobalTraffic* traffic[kLanes];
  };
  struct Place {
    uint32_t times[kLanes] = {};  // that each lane came here since the last flush
    size_t used = 0;              // of `accesses`, which keep their memory
    std::vector<WarpAccess> accesses;
    SharedSite total;
  };

  std::unordered_map<Key, Place, Hash> places_;
  std::vector<std::pair<const Key, Place>*> touched_;
};

}  // namespace el_attention::emulator
