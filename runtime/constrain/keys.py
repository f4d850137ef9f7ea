"""The listed keys of an object as a trie of bytes, so that many of them are followed as one."""

from __future__ import annotations

from latticework.runtime.constrain.rules import Object


class KeyNode:
    """The keys that begin alike. mask: a bit for each of them; ends: the one that is over here, or -1."""

    __slots__ = ("children", "depth", "ends", "mask")

    def __init__(self, depth: int) -> None:
        self.children: dict[int, KeyNode] = {}
        self.depth = depth
        self.mask = 0
        self.ends = -1


def key_trie(node: Object) -> KeyNode:
    """All listed keys of `node` that some value may follow. No key begins another: each ends with its only bare
    quote."""
    root = KeyNode(0)
    for index, member in enumerate(node.properties):
        if not member.choices:
            continue
        here, bit = root, 1 << index
        root.mask |= bit
        for depth, byte in enumerate(member.key, 1):
            following = here.children.get(byte)
            if following is None:
                following = here.children[byte] = KeyNode(depth)
            here = following
            here.mask = here.mask | bit if here.mask else bit  # one number for all the rest of a key
        here.ends = index
    return root
