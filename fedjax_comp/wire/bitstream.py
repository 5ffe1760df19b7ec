"""Writing bits to bytes and reading them back, by whole arrays (NumPy, on the host).

Bit order: bit `i` of the stream is bit `i % 8` of byte `i // 8`, counted from the least
significant, and a number is written from its least significant bit up. Little-endian
arrays that start at a byte are therefore already in stream order and are copied.

Variable-length codes are written in planes (all lengths, then all remaining bits). This
costs exactly as many bits as one code word after another, and lets NumPy decode whole
arrays. Before they allocate anything, readers compare what is asked of them with what
the message still holds: a short message cannot make them use much memory.
"""

import numpy as np
import numpy.typing as npt

from fedjax_comp.wire.errors import WireError

UInt8Array = npt.NDArray[np.uint8]
UInt64Array = npt.NDArray[np.uint64]

_WORD = 64
_NATIVE = {8: "<u1", 16: "<u2", 32: "<u4", 64: "<u8"}


def _pack(values: UInt64Array, width: int) -> UInt8Array:
    size = -(-values.size * width // 8)
    if width in _NATIVE:
        return values.astype(_NATIVE[width]).view(np.uint8)
    if width == 1:
        return np.packbits(values.astype(np.uint8), bitorder="little")
    # 64 numbers of `width` bits fill exactly `width` words: one pass for each of the
    # 64 positions does the same position of every group at once.
    rows = -(-values.size // _WORD)
    grid = np.zeros(rows * _WORD, np.uint64)
    grid[: values.size] = values
    columns = np.ascontiguousarray(grid.reshape(rows, _WORD).T)
    words = np.zeros((width, rows), np.uint64)
    for i in range(_WORD):
        word, shift = divmod(i * width, _WORD)
        words[word] |= columns[i] << np.uint64(shift)
        if shift + width > _WORD:
            words[word + 1] |= columns[i] >> np.uint64(_WORD - shift)
    return np.ascontiguousarray(words.T).astype("<u8").view(np.uint8).ravel()[:size]


def _unpack(data: UInt8Array, count: int, width: int) -> UInt64Array:
    if width in _NATIVE:
        return data.view(_NATIVE[width]).astype(np.uint64)
    if width == 1:
        bits = np.unpackbits(data, count=count, bitorder="little")
        return bits.astype(np.uint64)
    rows = -(-count // _WORD)
    padded = np.zeros(rows * width * 8, np.uint8)
    padded[: data.size] = data
    words = np.ascontiguousarray(padded.view("<u8").reshape(rows, width).T)
    words = words.astype(np.uint64)
    columns = np.empty((_WORD, rows), np.uint64)
    for i in range(_WORD):
        word, shift = divmod(i * width, _WORD)
        columns[i] = words[word] >> np.uint64(shift)
        if shift + width > _WORD:
            columns[i] |= words[word + 1] << np.uint64(_WORD - shift)
    columns &= np.uint64((1 << width) - 1)
    return np.ascontiguousarray(columns.T).ravel()[:count]


class BitWriter:
    """Collects bits and gives them back as bytes.

    >>> writer = BitWriter()
    >>> writer.write(np.array([1, 2, 3]), 3)
    >>> writer.num_bits, writer.to_bytes().hex()
    (9, 'd100')
    """

    def __init__(self) -> None:
        self._chunks: list[UInt8Array] = []
        self._tail = 0
        self.num_bits = 0

    def _append(self, packed: UInt8Array, num_bits: int) -> None:
        shift = self.num_bits % 8
        self.num_bits += num_bits
        if shift:
            shifted = np.zeros(packed.size + 1, np.uint8)
            shifted[:-1] = packed << np.uint8(shift)
            shifted[1:] |= packed >> np.uint8(8 - shift)
            shifted[0] |= np.uint8(self._tail)
            packed = shifted
        whole, rest = divmod(shift + num_bits, 8)
        self._chunks.append(packed[:whole])
        self._tail = int(packed[whole]) if rest else 0

    def write(self, values: npt.ArrayLike, width: int) -> None:
        """Writes `values`, `[n]` unsigned integers, in `width` bits each (0 to 64)."""
        array = np.asarray(values).ravel().astype(np.uint64)
        if width < _WORD and array.size and int(array.max()) >> width:
            raise WireError(f"Expected {int(array.max())} to fit in {width} bits.")
        if array.size and width:
            self._append(_pack(array, width), array.size * width)

    def write_bytes(self, data: bytes | UInt8Array) -> None:
        """Writes bytes as they are; a copy when the stream stands at a byte."""
        array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        self._append(array, 8 * array.size)

    def write_unary(self, values: UInt64Array) -> None:
        """Writes `values`, `[n]`, as that many zeros and a one each."""
        if values.size:
            ends = np.cumsum(values.astype(np.int64) + 1) - 1
            bits = np.zeros(int(ends[-1]) + 1, np.uint8)
            bits[ends] = 1
            self._append(np.packbits(bits, bitorder="little"), bits.size)

    def write_varied(self, values: UInt64Array, widths: npt.NDArray[np.int64]) -> None:
        """Writes `values[i]` in `widths[i]` bits (0 to 64), both `[n]`."""
        total = int(widths.sum())
        if total:
            place = np.arange(total) - np.repeat(np.cumsum(widths) - widths, widths)
            bits = np.repeat(values, widths) >> place.astype(np.uint64) & np.uint64(1)
            packed = np.packbits(bits.astype(np.uint8), bitorder="little")
            self._append(packed, total)

    def extend(self, other: "BitWriter") -> None:
        """Writes what another writer collected."""
        self._append(np.frombuffer(other.to_bytes(), np.uint8), other.num_bits)

    def to_bytes(self) -> bytes:
        """Everything written, the last byte padded with zero bits."""
        tail = bytes([self._tail]) if self.num_bits % 8 else b""
        return b"".join([chunk.tobytes() for chunk in self._chunks]) + tail


class BitReader:
    """Reads back what a `BitWriter` wrote; raises `WireError` past the end.

    >>> BitReader(bytes.fromhex("d100")).read(3, 3)
    array([1, 2, 3], dtype=uint64)
    """

    def __init__(self, data: bytes) -> None:
        self._data = np.frombuffer(data, np.uint8)
        self._position = 0

    @property
    def remaining(self) -> int:
        """Bits not read yet."""
        return 8 * self._data.size - self._position

    def require(self, num_bits: int) -> None:
        """Raises `WireError` unless at least `num_bits` bits are left."""
        if num_bits > self.remaining:
            raise WireError(
                f"The message ends early: {num_bits} bits expected, "
                f"{self.remaining} left."
            )

    def _peek(self, num_bits: int) -> UInt8Array:
        self.require(num_bits)
        first, shift = divmod(self._position, 8)
        size = -(-num_bits // 8)
        # A copy, since views of odd offsets cannot be reinterpreted as wider numbers.
        data = self._data[first : first + size].copy()
        if shift:
            data >>= np.uint8(shift)
            following = self._data[first + 1 : first + size + 1]
            data[: following.size] |= following << np.uint8(8 - shift)
        return data

    def skip(self, num_bits: int) -> None:
        """Passes over `num_bits` bits."""
        self.require(num_bits)
        self._position += num_bits

    def peek(self, count: int, width: int) -> UInt64Array:
        """The next `count` numbers of `width` bits (0 to 64), unread: `[count]`."""
        if width == 0 or count == 0:
            return np.zeros(count, np.uint64)
        return _unpack(self._peek(count * width), count, width)

    def read(self, count: int, width: int) -> UInt64Array:
        """Reads `count` numbers of `width` bits (0 to 64) each: `[count]`."""
        values = self.peek(count, width)
        self.skip(count * width)
        return values

    def read_bytes(self, count: int) -> UInt8Array:
        """Reads `count` bytes: uint8 `[count]`."""
        data = self._peek(8 * count)
        self.skip(8 * count)
        return data

    def read_unary(self, count: int, max_bits: int) -> UInt64Array:
        """Reads `count` unary numbers that take at most `max_bits` bits: `[count]`."""
        if count == 0:
            return np.zeros(0, np.uint64)
        self.require(count)
        limit = min(self.remaining, max_bits)
        bits = np.unpackbits(self._peek(limit), count=limit, bitorder="little")
        ends = np.flatnonzero(bits)[:count]
        if ends.size < count:
            raise WireError(f"Expected {count} unary numbers, got {ends.size}.")
        self.skip(int(ends[-1]) + 1)
        return (np.diff(ends, prepend=-1) - 1).astype(np.uint64)

    def read_varied(self, widths: npt.NDArray[np.int64]) -> UInt64Array:
        """Reads one number of `widths[i]` bits (0 to 64) for each `i`: `[n]`."""
        total = int(widths.sum())
        values = np.zeros(widths.size, np.uint64)
        if total:
            bits = np.unpackbits(self._peek(total), count=total, bitorder="little")
            self.skip(total)
            starts = np.cumsum(widths) - widths
            place = np.arange(total) - np.repeat(starts, widths)
            terms = bits.astype(np.uint64) << place.astype(np.uint64)
            filled = widths > 0
            values[filled] = np.add.reduceat(terms, starts[filled])
        return values

    def finish(self) -> None:
        """Checks that only the zero bits that pad the last byte are left."""
        left = self.remaining
        if left >= 8:
            raise WireError(f"The message goes on for {left} bits after its end.")
        if left and self.read(1, left)[0]:
            raise WireError("The bits that fill the last byte are not zero.")
