#include "access_log.h"

#include <algorithm>
#include <tuple>

namespace el_attention::emulator {

bool AccessLog::Key::operator==(const Key& other) const {
  return kind == other.kind && site == other.site && bytes == other.bytes;
}

size_t AccessLog::Hash::operator()(const Key& key) const {
  const auto pointers =
      reinterpret_cast<size_t>(key.kind) ^ reinterpret_cast<size_t>(key.site.file);
  return (pointers ^ size_t(key.site.line) << 8 ^ size_t(key.bytes)) * 0x9e3779b97f4a7c15u >> 16;
}

void AccessLog::add(const Kind& kind, Site site, int bytes, int lane, uint64_t address,
                    GlobalTraffic* traffic) {
  auto& entry = *places_.try_emplace(Key{&kind, site, bytes}).first;
  Place& place = entry.second;
  if (place.used == 0) touched_.push_back(&entry);
  const uint32_t time = place.times[lane]++;
  if (time == place.used) {
    if (place.used == place.accesses.size()) place.accesses.emplace_back();
    place.accesses[place.used++].lanes = 0;
  }
  WarpAccess& access = place.accesses[time];
  access.lanes |= 1u << lane;
  access.addresses[lane] = address;
  access.traffic[lane] = traffic;
}

void AccessLog::flush(Counters& counters) {
  for (auto* entry : touched_) {
    const auto& [kind, site, bytes] = entry->first;
    Place& place = entry->second;
    for (size_t i = 0; i < place.used; ++i) {
      const WarpAccess& access = place.accesses[i];
      if (kind->space == Space::kShared) {
        const Wavefronts cycles = wavefronts(access.addresses, access.lanes, bytes);
        place.total.accesses += 1;
        place.total.wavefronts += cycles.count;
        place.total.conflicts += cycles.conflicts;
        counters.shared_wavefronts += cycles.count;
        counters.shared_conflicts += cycles.conflicts;
        continue;
      }
      // Aligned accesses of up to 16 bytes lie in one sector.
      uint64_t sectors[kLanes];
      int count = 0;
      for (int lane = 0; lane < kLanes; ++lane) {
        if ((access.lanes >> lane & 1) == 0) continue;
        GlobalTraffic& traffic = *access.traffic[lane];
        (kind->writes ? traffic.written_bytes : traffic.read_bytes) += bytes;
        const uint64_t sector = access.addresses[lane] / kSectorBytes;
        if (std::find(sectors, sectors + count, sector) != sectors + count) continue;
        sectors[count++] = sector;
        (kind->writes ? traffic.written_sectors : traffic.read_sectors) += 1;
      }
    }
    place.used = 0;
    std::fill(std::begin(place.times), std::end(place.times), 0);
  }
  touched_.clear();
}

std::vector<SharedSite> AccessLog::shared_sites() const {
  std::vector<SharedSite> sites;
  for (const auto& [key, place] : places_) {
    if (key.kind->space != Space::kShared) continue;
    sites.push_back(place.total);
    sites.back().site = key.site;
    sites.back().access = key.kind->name;
  }
  std::sort(sites.begin(), sites.end(), [](const SharedSite& a, const SharedSite& b) {
    return std::tuple(std::string(a.site.file), a.site.line, std::string(a.access)) <
           std::tuple(std::string(b.site.file), b.site.line, std::string(b.access));
  });
  return sites;
}

void AccessLog::reset() {
  places_.clear();
  touched_.clear();
}

}  // namespace el_attention::emulator
