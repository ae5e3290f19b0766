"""Lists of common English words that several tasks draw from."""

COLORS = ("red", "blue", "green", "yellow", "black", "white", "brown", "purple", "pink", "silver")
THINGS = tuple(
    """ball book box bag bottle bowl cup plate fork spoon knife lamp chair table bed door window clock watch phone
    camera pen pencil paper card coin key ring hat coat shirt dress shoe boot glove belt flag kite drum guitar bell
    rope chain wheel car truck bus train boat plane bike brush comb towel pillow blanket basket bucket candle mirror
    toy doll stone leaf flower tree fish bird cat dog horse""".split()  # noqa: SIM905 - a list would take 60 lines
)
PEOPLE = tuple(
    """boy girl teacher doctor author farmer manager lawyer student singer artist actor driver player writer guard
    officer pilot nurse worker leader soldier scientist engineer neighbor customer visitor guest king queen friend
    cousin brother sister parent minister senator dancer poet baker hunter judge painter banker tailor captain
    president director reporter editor owner member user expert prince knight priest prisoner""".split()  # noqa: SIM905
)
"""Regular nouns: the plural has an `s` at its end."""
