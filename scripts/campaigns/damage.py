"""Damage to the bytes of a file."""

NUMBERS = (0, 1, 2, 3, 7, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63,
           2**64 - 1)


def damaged(rng, content, fixed=0, keep_length=False):
    """Return bytes with one to four places changed behind the first `fixed` bytes."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if len(content) <= fixed:
            break
        at, how = rng.randrange(fixed, len(content)), rng.randrange(3 if keep_length else 7)
        if how == 0:
            content[at] = rng.choice((0, 1, 255, rng.randrange(256)))
        elif how == 1:
            content[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            size = rng.choice((1, 2, 4, 8))
            number = (rng.choice(NUMBERS) % 256**size).to_bytes(size, "little")
            content[at:at + size] = number[:len(content) - at]
        elif how == 3:
            del content[at:]
        elif how == 4:
            del content[at:at + rng.randint(1, 20)]
        elif how == 5:
            content[at:at] = content[rng.randrange(len(content)):][:rng.randint(1, 60)]
        else:
            content[at:at] = rng.randbytes(rng.randint(1, 8))
    return bytes(content)
