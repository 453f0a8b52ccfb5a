"""What --methods of the benchmarks and reproductions understands: ordinary dropout, and pattern families with
settings."""


def parse_method(text):
    """Return (layer type, {field of its parameter: value}) of a method: Dropout, or a family and its
    settings.

    Dropout may be spelled conventional too. Settings follow a colon, as in ROW:max_period=3,scale=PATTERN;
    they are fields of approx_dropout_param. ConfigError for an unknown family or setting, and for a value
    that is none.
    """
    from minidrop.errors import ConfigError
    family, colon, _ = text.partition(":")
    if family in ("Dropout", "conventional"):
        if colon:
            raise ConfigError(f"method {text!r}: ordinary dropout has no settings; write {family}")
        return "Dropout", {}
    return "ApproxDropout", family_settings(text, f"method {text!r}", ("conventional",))


def family_settings(text, where, beside=()):
    """Return {field of approx_dropout_param: value} of FAMILY:setting=value,...; `beside`: what else is known
    there."""
    from minidrop.config import LayerParameter
    from minidrop.config.check import problem_of, value_of
    from minidrop.errors import ConfigError, nearest
    from minidrop.patterns import known_families
    family, colon, rest = text.partition(":")
    if family not in known_families():
        known = (*beside, *known_families())
        raise ConfigError(f"{where}: unknown pattern {family!r}{nearest(family, known)} (known: "
                          f"{', '.join(known)})")
    fields = {field.name: field for field in LayerParameter().approx_dropout_param.DESCRIPTOR.fields
              if field.name not in ("dropout_ratio", "pattern")}
    settings = {"pattern": family}
    for part in rest.split(",") if colon else ():
        name, _, value = part.partition("=")
        if name not in fields:
            raise ConfigError(f"{where}: {name!r} is no setting{nearest(name, fields)} (settings: "
                              f"{', '.join(fields)})")
        problem = problem_of(value, fields[name])
        if problem:
            raise ConfigError(f"{where}: {problem}")
        settings[name] = value_of(value, fields[name])
    return settings


def check_rates(method, settings, rates):
    """Raise ConfigError where a family with these settings cannot have one of the rates."""
    from minidrop.config import LayerParameter
    from minidrop.errors import ConfigError
    from minidrop.layers.drop_settings import pattern_settings
    from minidrop.patterns import get_family
    for rate in rates:
        layer = LayerParameter(approx_dropout_param={"dropout_ratio": rate, **settings})
        try:
            get_family(pattern_settings(layer.approx_dropout_param))
        except ConfigError as error:
            raise ConfigError(f"method {method!r} at rate {rate:g}: {error}") from None


def check_methods(methods, rates):
    """Raise ConfigError where a method is none, or cannot have one of the rates."""
    for method in methods:
        kind, settings = parse_method(method)
        check_rates(method, settings, rates if kind == "ApproxDropout" else ())


def product_operations(net):
    """Return (all, expected) operations in the products of one training step of a Net: their ratio is the
    bound."""
    from minidrop.net.costs import costs
    rows = costs(net)
    return sum(row.dense for row in rows), sum(row.expected for row in rows)
