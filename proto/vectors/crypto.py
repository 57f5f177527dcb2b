"""Ed25519 verification by the rules of ZIP-215 and the tree over the sections, slow and short. Standard library only."""
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
