"""Reads the numbers of docs/envelope.md from bytes. Standard library only."""
import struct

class Reader:
    def __init__(self, data, magic=b""):
        self.data = data
        assert self.take(len(magic)) == magic, "magic"
    def take(self, n):
        assert len(self.data) >= n, "cut"
        out, self.data = self.data[:n], self.data[n:]
        return out
    def num(self, form): return struct.unpack(">" + form, self.take(struct.calcsize(form)))[0]
    def fields(self, text):
        out = {}
        for name, form in (field.split(":") for field in text.split()):
            value = self.take(int(form)).hex() if form.isdigit() else self.num(form)
            out[name] = str(value) if form in "Qq" else value
        return out
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
