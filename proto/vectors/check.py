#!/usr/bin/env python3
"""A second reading of docs/envelope.md: decodes and verifies envelope.json. Standard library only."""
import json, re, sys
sys.dont_write_bytecode = True
from crypto import follow, root, sha, verify, verify_p256
from reader import Reader

def header(data):
    r = Reader(data, b"DPH1")
    h = r.fields("chainKey:32 incarnation:Q sequence:Q previous:32")
    h |= r.fields("registryIncarnation:Q registryVersion:Q sealedAt:q windowStart:q windowEnd:q")
    count = r.num("H")
    assert count <= 1024, "drops"
    h["drops"] = [r.fields("reason:B count:Q first:q last:q ordinal:I") for _ in range(count)]
    h |= r.fields("sections:I body:32")
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
    out = r.fields("gatewayKey:32 chainKey:32 incarnation:Q sequence:Q headerDigest:32 ledgerIncarnation:Q ledgerPosition:Q")
    out |= r.fields("receivedAt:q accepted:Q rejected:Q verdictDigest:32 durable:B archived:B")
    r.end()
    assert out["durable"] < 2 and out["archived"] < 2, "flag"
    return out

KNOWN = {*range(1, 13), *range(100, 110), *range(200, 205), *range(300, 317)}

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

def same(expected, found): assert all(expected[name] == value for name, value in found.items()), (expected, found)

vectors, count, unhex = json.load(open(sys.argv[1])), 0, bytes.fromhex
for proof in vectors["proofs"]:
    data, sections = unhex(proof["header"]["bytes"]), [unhex(s["bytes"]) for s in proof["sections"]]
    same(proof["header"], header(data) | {"digest": sha(data).hex()})
    for expected, found in zip(proof["sections"], sections): same(expected, section(found))
    assert root([sha(b"\0", s) for s in sections]).hex() == proof["header"]["body"], "body"
    algorithm = proof["algorithm"]
    assert sha(bytes([algorithm]), unhex(proof["publicKey"])).hex() == proof["keyId"] == proof["header"]["chainKey"], "key id"
    {1: verify, 2: verify_p256}[algorithm](unhex(proof["publicKey"]), b"depin.v1.Proof\0" + data, unhex(proof["signature"]))
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
