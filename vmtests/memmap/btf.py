"""A kernel's types and variables for drgn from BTF and the kernel's own symbols: drgn itself reads types from DWARF.

BTF has types and enumerators. Addresses come from the symbol table that the kernel has in its memory (kallsyms), and
which variable has which type is written down here, for those that vmtests and the helpers of drgn that it uses read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import drgn
from drgn import (
    AbsenceReason,
    FindObjectFlags,
    Object,
    Program,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeKindSet,
    TypeMember,
)
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

from vmtests.errors import HostFailure

#: Variables of the kernel, each with its type in C.
VARIABLES = {
    "__cpu_online_mask": "struct cpumask",
    "__per_cpu_offset": "unsigned long []",
    "_debug_pagealloc_enabled": "struct static_key_false",
    "_page_poisoning_enabled": "struct static_key_false",
    "init_mm": "struct mm_struct",
    "init_on_alloc": "struct static_key_true",
    "init_on_free": "struct static_key_false",
    "mem_section": "struct mem_section **",
    "node_data": "struct pglist_data *[]",
    "node_states": "nodemask_t []",
    "nr_cpu_ids": "unsigned int",
    "nr_node_ids": "unsigned int",
    "page_group_by_mobility_disabled": "int",
    "pgmap_array": "struct xarray",
    "vmemmap_base": "unsigned long",
}

_NAME = "vmtests BTF"

_ANONYMOUS = "(anon)"

#: The kinds of BTF that have a name of their own, and drgn's for them.
_NAMED = {
    "INT": TypeKind.INT,
    "FLOAT": TypeKind.FLOAT,
    "STRUCT": TypeKind.STRUCT,
    "UNION": TypeKind.UNION,
    "ENUM": TypeKind.ENUM,
    "ENUM64": TypeKind.ENUM,
    "TYPEDEF": TypeKind.TYPEDEF,
}

_Record = Mapping[str, Any]


def add_types(program: Program, records: Sequence[_Record]) -> None:
    """Let `program` find the types and the enumerators of a kernel.

    Args:
        program: with or without a target.
        records: as bpftool's JSON has them.
    """
    types = _Types(program, records)
    program.register_type_finder(_NAME, types.find, enable_index=0)
    program.register_object_finder(_NAME, types.find_constant, enable_index=0)


def add_variables(program: Program) -> None:
    """Let `program`, which has a kernel as its target and knows its types, find the kernel's variables.

    Raises:
        HostFailure: the kernel has no symbol table, or one of functions only.
    """
    try:
        program.register_symbol_finder(_NAME, load_vmlinux_kallsyms(program), enable_index=0)
        program.symbol("vmemmap_base")
    except (LookupError, ValueError, drgn.FaultError) as error:
        raise HostFailure(
            f"the kernel's own symbols do not tell where its variables are: without DWARF it needs "
            f"CONFIG_KALLSYMS_ALL=y ({error})"
        ) from error

    def find(program: Program, name: str, flags: FindObjectFlags, _file: str | None) -> Object | None:
        if name not in VARIABLES or not flags & FindObjectFlags.VARIABLE:
            return None
        try:
            address = program.symbol(name).address
        except LookupError:
            return None  # not in this config
        return Object(program, VARIABLES[name], address=address)

    program.register_object_finder(f"{_NAME} variables", find, enable_index=0)


class _Types:
    """The types of one program, each made when it is asked for, the members of a structure when they are looked at."""

    def __init__(self, program: Program, records: Sequence[_Record]) -> None:
        self._program = program
        self._records = {record["id"]: record for record in records}
        self._made: dict[int, Type] = {0: program.void_type()}
        self._named: dict[tuple[TypeKind, str], int] = {}
        self._constants: dict[str, tuple[int, int]] = {}
        for record in records:
            kind = _NAMED.get(record["kind"])
            if kind is not None and record["name"] != _ANONYMOUS:
                self._named.setdefault((kind, record["name"]), record["id"])
            for value in record.get("values", ()):
                self._constants.setdefault(value["name"], (record["id"], value["val"]))

    def find(self, _program: Program, kinds: TypeKindSet, name: str, _file: str | None) -> Type | None:
        """drgn asks for a type."""
        found = next((self._named[kind, name] for kind in kinds if (kind, name) in self._named), None)
        return None if found is None else self._type(found)

    def find_constant(self, program: Program, name: str, flags: FindObjectFlags, _file: str | None) -> Object | None:
        """drgn asks for an enumerator."""
        if name not in self._constants or not flags & FindObjectFlags.CONSTANT:
            return None
        type_id, value = self._constants[name]
        return Object(program, self._type(type_id), value)

    def _type(self, type_id: int) -> Type:
        if type_id not in self._made:
            record = self._records[type_id]
            self._made[type_id] = _MAKERS[record["kind"]](self, record)
        return self._made[type_id]

    def _int(self, record: _Record) -> Type:
        if record["encoding"] == "BOOL":
            return self._program.bool_type(record["name"], record["size"])
        return self._program.int_type(record["name"], record["size"], record["encoding"] == "SIGNED")

    def _float(self, record: _Record) -> Type:
        return self._program.float_type(record["name"], record["size"])

    def _pointer(self, record: _Record) -> Type:
        return self._program.pointer_type(self._type(record["type_id"]))

    def _array(self, record: _Record) -> Type:
        return self._program.array_type(self._type(record["type_id"]), record["nr_elems"])

    def _struct(self, record: _Record) -> Type:
        return self._program.struct_type(_tag(record), record["size"], self._members(record))

    def _union(self, record: _Record) -> Type:
        return self._program.union_type(_tag(record), record["size"], self._members(record))

    def _members(self, record: _Record) -> list[TypeMember]:
        return [TypeMember(self._member(member), _tag(member), member["bits_offset"]) for member in record["members"]]

    def _member(self, member: _Record) -> Callable[[], Object]:
        bits = member.get("bitfield_size") or None
        return lambda: Object(
            self._program, self._type(member["type_id"]), absence_reason=AbsenceReason.OTHER, bit_field_size=bits
        )

    def _forward(self, record: _Record) -> Type:
        make = self._program.union_type if record["fwd_kind"] == "union" else self._program.struct_type
        return make(record["name"])

    def _enum(self, record: _Record) -> Type:
        signed = record["encoding"] == "SIGNED"
        number = self._program.int_type(f"{'' if signed else 'unsigned '}enum", record["size"], signed)
        values = [TypeEnumerator(value["name"], value["val"]) for value in record["values"]]
        return self._program.enum_type(_tag(record), number, values)

    def _typedef(self, record: _Record) -> Type:
        return self._program.typedef_type(record["name"], self._type(record["type_id"]))

    def _qualified(self, record: _Record) -> Type:
        return self._type(record["type_id"])  # we only read

    def _function(self, _record: _Record) -> Type:
        return self._program.function_type(self._program.void_type(), ())  # never called


_MAKERS: Mapping[str, Callable[[_Types, _Record], Type]] = {
    "INT": _Types._int,
    "FLOAT": _Types._float,
    "PTR": _Types._pointer,
    "ARRAY": _Types._array,
    "STRUCT": _Types._struct,
    "UNION": _Types._union,
    "FWD": _Types._forward,
    "ENUM": _Types._enum,
    "ENUM64": _Types._enum,
    "TYPEDEF": _Types._typedef,
    "CONST": _Types._qualified,
    "VOLATILE": _Types._qualified,
    "RESTRICT": _Types._qualified,
    "TYPE_TAG": _Types._qualified,
    "FUNC_PROTO": _Types._function,
}


def _tag(record: _Record) -> str | None:
    return None if record["name"] == _ANONYMOUS else record["name"]
