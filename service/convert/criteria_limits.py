"""The limits of criteria, checked on the message before anything is built from it.

A message of 4 MB can hold millions of empty nodes, and what is built from each is a hundred times larger. So
the check stops at the first node beyond the limit, and looks at the length of a list before its elements.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from engine.criteria.faults import values_fault
from engine.limits import Limits
from milepost.v1 import criteria_pb2, value_pb2
from milepost.written_form import written_name
from service.convert.faults import ShapeFaults

_NODES = {
    message.DESCRIPTOR.full_name
    for message in (criteria_pb2.Criteria, criteria_pb2.EventCondition, criteria_pb2.SequenceStep)
}
_INPUTS = {
    message.DESCRIPTOR.fields_by_name["inputs"].full_name
    for message in (criteria_pb2.EventCriterion, criteria_pb2.SequenceStep)
}


_VALUES = {
    message.DESCRIPTOR.fields_by_name["values"].full_name
    for message in (criteria_pb2.ValueList, criteria_pb2.NumberList, value_pb2.StringList)
}

_VALUE_LIST = criteria_pb2.ValueList.DESCRIPTOR.fields_by_name["values"].full_name


def lengths_max(limits: Limits) -> dict[str, int]:
    """The most elements of each repeated field that does not hold nodes, by full name."""
    return {
        criteria_pb2.ValueList.DESCRIPTOR.fields_by_name["values"].full_name: limits.in_values_max,
        criteria_pb2.NumberList.DESCRIPTOR.fields_by_name["values"].full_name: limits.in_values_max,
        criteria_pb2.SequenceCriterion.DESCRIPTOR.fields_by_name[
            "steps"
        ].full_name: limits.sequence_steps_max,
        value_pb2.StringList.DESCRIPTOR.fields_by_name["values"].full_name: limits.list_items_max,
        **dict.fromkeys(_INPUTS, limits.criteria_inputs_max),
    }


def check_criteria_limits(
    message: criteria_pb2.Criteria, path: str, limits: Limits, faults: ShapeFaults
) -> None:
    """Adds a fault for each part of the criteria that is beyond a limit."""
    size, size_max = message.ByteSize(), limits.criteria_bytes_max
    if size > size_max:
        faults.add(path, f"has {size:,} bytes; at most {size_max:,} are allowed")
        return
    _Check(limits, faults, path).node(message, path, 1)


class _Check:
    def __init__(self, limits: Limits, faults: ShapeFaults, root: str) -> None:
        self._limits = limits
        self._lengths_max = lengths_max(limits)
        self._faults = faults
        self._root = root
        self._nodes = 0
        self._inputs = 0
        self._values = 0

    def node(self, message: Message, path: str, depth: int) -> None:
        """Checks a criterion, a condition or a step, and what is below it."""
        self._nodes += 1
        if self._nodes > self._limits.criteria_nodes_max:
            if self._nodes == self._limits.criteria_nodes_max + 1:
                self._faults.add(
                    self._root, f"has more than {self._limits.criteria_nodes_max} nodes, the most allowed"
                )
        elif depth > self._limits.criteria_depth_max:
            self._faults.add(path, f"is nested deeper than {self._limits.criteria_depth_max} levels")
        else:
            self._fields(message, path, depth)

    def _fields(self, message: Message, path: str, depth: int) -> None:
        for field, value in message.ListFields():
            inside = f"{path}.{written_name(field)}"
            if field.is_repeated:
                self._list(field, value, inside, depth)
            elif field.message_type is not None:
                self._part(value, inside, depth)

    def _part(self, message: Message, path: str, depth: int) -> None:
        if message.DESCRIPTOR.full_name in _NODES:
            self.node(message, path, depth + 1)
        else:
            self._fields(message, path, depth)

    def _count_values(self, count: int) -> None:
        before, most = self._values, self._limits.criteria_values_max
        self._values += count
        if before <= most < self._values:
            self._faults.add(self._root, values_fault(most))

    def _list(self, field: FieldDescriptor, elements: list[Any], path: str, depth: int) -> None:
        length, length_max = len(elements), self._lengths_max.get(field.full_name)
        if field.full_name in _INPUTS:
            self._inputs += length
            length = self._inputs
        if length_max is not None and length > length_max:
            # Documents write these lists without the field of the message that holds them.
            path = path.removesuffix(".values").removesuffix(".list_value")
            self._faults.add(path, f"has {length} {field.name}; at most {length_max} are allowed")
        elif field.full_name in _VALUES:
            self._count_values(length)
            if field.full_name == _VALUE_LIST:
                self._count_values(sum(len(each.list_value.values) for each in elements))
        elif field.message_type is not None and field.message_type.full_name in _NODES:
            for index, element in enumerate(elements):
                if self._nodes > self._limits.criteria_nodes_max:
                    break
                self.node(element, f"{path}[{index}]", depth + 1)
