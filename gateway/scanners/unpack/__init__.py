# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives and documents, opened in memory by a child process that may crash, hang or run out.

`pool.py` is the parent's side: it starts children, asks them within a deadline, and believes no
answer before it is checked. `child.py` is the other side; `walk.py` and all it calls run only
there (and in tests), since they feed hostile bytes to native code and to large libraries.
"""
