"""``python -m el_attention`` is the console script ``el-attention``."""

import sys

from el_attention.cli import main

sys.exit(main())
