"""The wire: fields, their exact cost, their codes, and messages as bytes.

Open `fields.py` first: what the leaves of a payload mean, and so what they cost.
`accounting.py` counts the bits inside jit, and `message.py` writes and reads them;
`payload_words.py` packs those of a fixed length inside jit, for collectives.
"""
