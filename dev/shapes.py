"""What no two runs say alike, for every comparison of texts: identities and what is dealt out at random."""

import re

UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# The volume of a pod's token, which is named at random.
VOLUME = re.compile(r"kube-api-access-[a-z0-9]{5}")
DAY = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
