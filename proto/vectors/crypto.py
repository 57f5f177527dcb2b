"""Ed25519 verification by the rules of ZIP-215, ECDSA over P-256, and the tree over the sections, slow and short. Standard library only."""
import hashlib

P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

def sha(*parts): return hashlib.sha256(b"".join(parts)).digest()

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

def verify_p256(key, message, signature):
    p, a = 2**256 - 2**224 + 2**192 + 2**96 - 1, -3
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    n = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    base = (0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296, 0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5)
    def plus(u, v):
        if u is None or v is None: return u or v
        if u[0] == v[0] and (u[1] + v[1]) % p == 0: return None
        slope = (3 * u[0] ** 2 + a) * pow(2 * u[1], -1, p) if u == v else (v[1] - u[1]) * pow(v[0] - u[0], -1, p)
        x = (slope * slope - u[0] - v[0]) % p
        return x, (slope * (u[0] - x) - u[1]) % p
    def mul(k, u):
        out = None
        while k:
            if k & 1: out = plus(out, u)
            u, k = plus(u, u), k >> 1
        return out
    x = int.from_bytes(key[1:], "big")
    y = pow(x**3 + a * x + b, (p + 1) // 4, p)
    assert len(key) == 33 and key[0] in (2, 3) and (y * y - x**3 - a * x - b) % p == 0, "no point"
    if y & 1 != key[0] & 1: y = p - y
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    assert len(signature) == 64 and 0 < r < n and 0 < s < n, "range"
    w = pow(s, -1, n)
    point = plus(mul(int.from_bytes(sha(message), "big") * w % n, base), mul(r * w % n, (x, y)))
    assert point and point[0] % n == r, "signature"

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
