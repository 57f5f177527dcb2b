#!/usr/bin/env python3
"""A second reading of docs/envelope.md: decodes, re-encodes and verifies envelope.json. Standard library only."""
import hashlib, json, re, struct, sys

P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
sha = lambda *parts: hashlib.sha256(b"".join(parts)).digest()

def add(a, b):
    (x1, y1, z1, t1), (x2, y2, z2, t2) = a, b
    e, f = (y1 - x1) * (y2 - x2), (y1 + x1) * (y2 + x2)
    g, h = 2 * t1 * t2 * D, 2 * z1 * z2
    e, f, g, h = f - e, h - g, h + g, f + e
    return e * f % P, g * h % P, f * g % P, e * h % P

def times(n, a):
    out = (0, 1, 1, 0)
    while n:
        if n & 1: out = add(out, a)
        a, n = add(a, a), n >> 1
    return out

def point(encoded):  # ZIP-215: any encoding of any point
    sign, y = encoded[31] >> 7, int.from_bytes(encoded, "little") % 2**255 % P
    x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if x * x % P != x2: x = x * pow(2, (P - 1) // 4, P) % P
    assert x * x % P == x2, "no point"
    if x & 1 != sign: x = P - x
    return x % P, y, 1, x * y % P

BASE = point(bytes([0x58] + [0x66] * 31))

def verify(key, message, signature):
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    assert s < L, "s is not canonical"
    k = int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % L
    left, right = times(8 * s, BASE), times(8, add(point(r), times(k, point(key))))
    assert (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0, "signature"

class Reader:
    def __init__(self, data, magic=b""):
        self.data = data
        assert self.take(len(magic)) == magic, "magic"
    def take(self, n):
        assert len(self.data) >= n, "cut"
        out, self.data = self.data[:n], self.data[n:]
        return out
    def num(self, form): return struct.unpack(">" + form, self.take(struct.calcsize(form)))[0]
    def varint(self):
        out = shift = 0
        while True:
            byte = self.num("B")
            out |= (byte & 127) << shift
            if byte < 128:
                assert (byte or not shift) and out < 2**64, "varint"
                return out
            shift += 7
    def zigzag(self):
        raw = self.varint()
        return raw >> 1 ^ -(raw & 1)
    def end(self): assert not self.data, "trailing bytes"

def header(data):
    r = Reader(data, b"DPH1")
    h = {"chainKey": r.take(32).hex(), "incarnation": str(r.num("Q")), "sequence": str(r.num("Q")), "previous": r.take(32).hex()}
    for name, form in [("registryIncarnation", "Q"), ("registryVersion", "Q"), ("sealedAt", "q"), ("windowStart", "q"), ("windowEnd", "q")]:
        h[name] = str(r.num(form))
    count = r.num("H")
    assert count <= 1024, "drops"
    h["drops"] = [dict(reason=r.num("B"), count=str(r.num("Q")), first=str(r.num("q")), last=str(r.num("q")), ordinal=r.num("I")) for _ in range(count)]
    h["sections"], h["body"] = r.num("I"), r.take(32).hex()
    r.end()
    assert h["incarnation"] != "0" != h["sequence"] and h["sections"] <= 65536, "bounds"
    assert h["sequence"] != "1" or h["previous"] == "00" * 32, "previous"
    assert all(d["reason"] < 4 and d["count"] != "0" and int(d["first"]) <= int(d["last"]) for d in h["drops"]), "drop"
    start, end = int(h["windowStart"]), int(h["windowEnd"])
    assert start < end if h["sections"] else (start, end, h["body"]) == (0, 0, "00" * 32), "window"
    return h

def section(data):
    r = Reader(data, b"DPS1\x01")
    s = {"device": r.take(16).hex(), "model": r.take(32).hex(), "attestation": r.num("B"), "series": []}
    count, before = r.num("H"), ""
    assert s["attestation"] < 3 and 1 <= count <= 1024, "bounds"
    for _ in range(count):
        name = r.take(r.num("B")).decode("ascii")
        assert re.fullmatch("[a-zA-Z][a-zA-Z0-9_]{0,63}", name) and before < name, "metric"
        n, at, value, before = r.num("I"), r.num("q"), r.zigzag(), name
        assert 1 <= n <= 262144, "readings"
        readings = [[str(at), str(value)]]
        for _ in range(n - 1):
            step = r.varint()
            at, value = at + step, (value + r.zigzag() + 2**63) % 2**64 - 2**63
            assert step and at < 2**63, "timestamp"
            readings.append([str(at), str(value)])
        s["series"].append({"metric": name, "readings": readings})
    r.end()
    return s

def receipt(data):
    r = Reader(data, b"DPR1")
    out = {"gatewayKey": r.take(32).hex(), "chainKey": r.take(32).hex(), "incarnation": str(r.num("Q")), "sequence": str(r.num("Q")), "headerDigest": r.take(32).hex()}
    for name, form in [("ledgerIncarnation", "Q"), ("ledgerPosition", "Q"), ("receivedAt", "q"), ("accepted", "Q"), ("rejected", "Q")]:
        out[name] = str(r.num(form))
    out |= {"verdictDigest": r.take(32).hex(), "durable": r.num("B"), "archived": r.num("B")}
    r.end()
    assert out["durable"] < 2 and out["archived"] < 2, "flag"
    return out

KNOWN = {*range(1, 13), *range(100, 109), *range(200, 205), *range(300, 317)}

def verdict(data):
    r = Reader(data)
    out = {"accepted": str(r.num("Q")), "rejections": []}
    for _ in range(r.num("I")):
        it = {"section": r.num("I"), "series": r.num("I"), "readings": [r.num("I") for _ in range(r.num("I"))], "reason": r.num("H")}
        it["detail"] = r.take(r.num("B")).decode()
        if it["series"] == 0xFFFFFFFF: it["series"] = None
        assert it["reason"] in KNOWN and it["readings"] == sorted(set(it["readings"])), "rejection"
        assert it["series"] is not None or not it["readings"], "whole section"
        out["rejections"].append(it)
    r.end()
    return out

def root(leaves):
    if len(leaves) < 2: return leaves[0] if leaves else bytes(32)
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha(b"\1", root(leaves[:split]), root(leaves[split:]))

def follow(leaf, index, count, path):
    if count == 1:
        assert not path, "path"
        return leaf
    split = 1 << (count - 1).bit_length() - 1
    if index < split: return sha(b"\1", follow(leaf, index, split, path[:-1]), path[-1])
    return sha(b"\1", path[-1], follow(leaf, index - split, count - split, path[:-1]))

def same(expected, found): assert all(expected[name] == value for name, value in found.items()), (expected, found)

vectors, count, unhex = json.load(open(sys.argv[1])), 0, bytes.fromhex
for proof in vectors["proofs"]:
    data, sections = unhex(proof["header"]["bytes"]), [unhex(s["bytes"]) for s in proof["sections"]]
    same(proof["header"], header(data) | {"digest": sha(data).hex()})
    for expected, found in zip(proof["sections"], sections): same(expected, section(found))
    assert root([sha(b"\0", s) for s in sections]).hex() == proof["header"]["body"], "body"
    assert sha(b"\1", unhex(proof["publicKey"])).hex() == proof["keyId"] == proof["header"]["chainKey"], "key id"
    verify(unhex(proof["publicKey"]), b"depin.v1.Proof\0" + data, unhex(proof["signature"]))
    count += 1
for body in vectors["bodies"]:
    leaves = [sha(b"\0", unhex(s)) for s in body["sections"]]
    assert root(leaves).hex() == body["root"], "root"
    for i, path in enumerate(body["paths"]): assert follow(leaves[i], i, len(leaves), [unhex(s) for s in path]).hex() == body["root"], "path"
    count += 1
for it in vectors["verdicts"]: same(it, verdict(unhex(it["bytes"])) | {"digest": sha(unhex(it["bytes"])).hex()})
it = vectors["receipt"]
same(it, receipt(unhex(it["bytes"])))
verify(unhex(it["publicKey"]), b"depin.v1.Receipt\0" + unhex(it["bytes"]), unhex(it["signature"]))
for case in vectors["invalid"]:
    try: {"header": header, "section": section, "receipt": receipt, "verdict": verdict}[case["kind"]](unhex(case["bytes"]))
    except (AssertionError, UnicodeDecodeError): count += 1
    else: sys.exit(f"accepted an invalid {case['kind']}: {case['name']}")
print(f"checked {count + len(vectors['verdicts']) + 1} vectors")
