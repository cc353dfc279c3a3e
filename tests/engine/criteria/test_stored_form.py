"""The stored form of criteria never changes."""

from __future__ import annotations

import msgspec

from engine.criteria.model import Criterion

# As documents of earlier versions hold them. Lines may be added; changing one means migrating stores.
STORED = """\
{"node":"user_attribute","key":"k","test":{"test":"in","values":[1.0,"a",true,5,["x"]],"ignore_case":true}}
{"node":"not","criterion":{"node":"identity","type":"e","test":{"test":"text","op":"ends_with","pattern":"x"}}}
{"node":"any_of","criteria":[{"node":"consent","regulation":"g","purpose":"p","state":"given"},{"node":"bucket","salt":"s","from_percent":0.0,"to_percent":50.0},{"node":"audience","name":"n"}]}
{"node":"event","name":"b","type":3,"where":{"node":"all_of","conditions":[{"node":"not","condition":{"node":"attribute","key":"a","test":{"test":"compare","op":"less_than","operand":1.0}}},{"node":"any_of"},{"node":"attribute","key":"v","test":{"test":"semver","op":"equals","version":"1.0.0"}}]},"inputs":["i"],"window":{"node":"between_ago","from":9,"to":3},"aggregate":"sum","of":"o","test":{"test":"between","low":1.0,"high":2.0}}
{"node":"sequence","steps":[{"name":"a","where":{"node":"attribute","key":"z","test":{"test":"near","latitude":1.0,"longitude":2.0,"meters":3.0}}},{}],"within":7,"window":{"node":"calendar","unit":"week"}}
{"node":"event","where":{"node":"attribute","key":"t","test":{"test":"within_last","duration":5}},"window":{"node":"last","duration":5}}
{"node":"event","where":{"node":"attribute","key":"t","test":{"test":"older_than","duration":5}},"window":{"node":"range","start":1}}
{"node":"user_attribute","key":"x","test":{"test":"exists"}}
{"node":"user_attribute","key":"y","test":{"test":"equals","value":"q"}}
"""


def test_criteria_are_read_and_written_as_earlier_versions_stored_them() -> None:
    for line in STORED.splitlines():
        criterion: Criterion = msgspec.json.decode(line, type=Criterion)
        assert msgspec.json.encode(criterion).decode() == line
        packed = msgspec.msgpack.encode(criterion)
        assert msgspec.msgpack.decode(packed, type=Criterion) == criterion
        assert msgspec.msgpack.decode(packed) == msgspec.json.decode(line)
