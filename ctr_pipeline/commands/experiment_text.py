"""What `ctr experiment plan` and `ctr experiment read` print."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_plan(found: Mapping[str, Any], console: Console) -> None:
    """Users and days, what is found sooner, and how servers assign."""
    plan, size, log = found["plan"], found["size"], found["log"]
    rule, design = plan["rule"], plan["design"]
    console.print(
        f"Experiment {design['name']}: {metric_text(plan)}, {size['rate']:.4g} in the control; to be found is {rule['relative']:+.2%} "
        f"(difference {size['difference']:+.3g}) with power {rule['power']:.0%}, alpha {rule['alpha']:g}, "
        f"{'two-sided' if rule['sides'] == 2 else 'one-sided'}, {design['share']:.0%} of the users, {design['treated']:.0%} of them treated.",
        highlight=False,
    )
    if log is not None:
        console.print(
            f"Planned with {log['first']} to {log['last']}: {log['impressions']:,} settled impressions of {log['users']:,} users "
            f"({log['rows_by_user']:.1f} each, {log['users_with_one_row'] / log['users']:.0%} with one), "
            f"{log['impressions_by_day']:,.0f} a day. What users did in the {log['before_days']} days before explains "
            f"{size['explained']:.1%} of the variance.",
            highlight=False,
        )
    table = Table("", "users", "days", "outcomes settled after")
    for name, prefix in (("one look at the end", ""), ("a look every day", "sequential_")):
        users = size[f"{prefix}users"]
        shown = "–" if users is None else f"{users:,}"
        table.add_row(name, shown, _days(size[f"{prefix}days"]), _days(size[f"{prefix}readable_days"]))
    console.print(table)
    if size["detectable"]:
        text = ", ".join(f"{value:.1%} after {day} days" for day, value in size["detectable"].items())
        console.print(f"One look would find: {text}.", highlight=False)
    console.print(
        "The days of a look every day are the longest: it ends sooner where the effect is larger. Run whole weeks: weekdays differ.",
        highlight=False,
    )
    console.print("Servers assign by the hash of the user, as canaries do:", highlight=False)
    canaries = "".join(f"Canary({one['trial']!r}, {one['share']:g}), " for one in design["canaries"])
    console.print(
        f"  Design(name={design['name']!r}, share={design['share']:g}, treated={design['treated']:g}, "
        f"canaries=({canaries.rstrip() if canaries else ''})).arm_of(pseudonym)",
        highlight=False, markup=False,
    )  # fmt: skip


def print_reading(found: Mapping[str, Any], console: Console) -> None:
    """Both arms, the effect, the decision, and the slices."""
    reading, maturity, both = found["reading"], found["maturity"], found["contamination"]
    console.print(
        f"Experiment {found['experiment']} since {found['first']}: {metric_text(found['plan'])}; arms by {found['arms_from']}.",
        highlight=False,
    )
    table = Table("arm", "users", "impressions", "outcomes", "rate")
    for name, arm in found["arms"].items():
        table.add_row(
            name, f"{arm['users']:,}", f"{arm['impressions']:,}", f"{arm['outcomes']:,.6g}", f"{arm['rate']:.5g}"
        )
    console.print(table)
    console.print(
        f"Outcomes are settled until {maturity['settled_until']}: {maturity['share']:.1%} of the impressions; the others are left out of "
        f"both arms. Users in both arms: {both['users']:,} ({both['share']:.2%}), left out.",
        highlight=False,
    )
    effect = Table("effect", "value", "low", "high")
    for name, key in (
        ("difference, one look", "difference"), ("difference, any number of looks", "always"), ("relative, one look", "relative"),
    ):  # fmt: skip
        effect.add_row(name, *(_number(reading[key][part]) for part in ("value", "low", "high")))
    console.print(effect)
    console.print(
        f"The period before explains {reading['explained']:.1%} of the variance; {reading['information']:.0%} of the planned "
        f"information is there. Sample ratio: p = {reading['ratio_p_value']:.3g}.",
        highlight=False,
    )
    advice = found["advice"]
    until = f" Until {advice['until']}, if users go on to come as they do." if advice["until"] else ""
    console.print(f"[bold]{advice['verdict']}[/]: ", end="", highlight=False)
    console.print(f"{advice['reason']}{until}", highlight=False, markup=False)
    if found["slices"]:
        _print_slices(found["slices"], console)


ESTIMATES = (
    ("weighted (IPW)", "ipw"), ("self-normalised (SNIPW)", "snipw"), ("clipped", "clipped"), ("doubly robust (DR)", "dr"),
    ("switch-DR", "switch_dr"), ("what was in service", "logged"),
)  # fmt: skip


def print_value(found: Mapping[str, Any], console: Console) -> None:
    """The estimates of a policy's value, what they rest on, and the alarms."""
    value = found["value"]
    console.print(f"Mean reward of a row under: {found['candidate']}.", highlight=False)
    table = Table("estimate", "value", "95 % interval")
    for name, key in ESTIMATES:
        if value[key] is not None:
            own = value[key]
            table.add_row(name, f"{own['value']:.5g}", f"{_plain(own['low'])} to {_plain(own['high'])}")
    if found["compared"] is not None:
        own = found["compared"]["value"]
        table.add_row(
            found["compared"]["what"], f"{own['value']:.5g}", f"{_plain(own['low'])} to {_plain(own['high'])}"
        )
    console.print(table)
    console.print(
        f"{value['rows']:,} rows of {value['units']:,} units, {value['effective_rows']:,.0f} effective; mean weight "
        f"{value['mean_weight']['value']:.3f}, largest {value['largest_weight']:.4g}; clipped above {value['clip']:g}: "
        f"{value['clipped_share']:.1%} of the weights.",
        highlight=False,
    )
    for reason, rows in found["left_out"].items():
        console.print(f"Left out, {reason}: {rows:,} rows.", highlight=False)
    for alarm in value["alarms"]:
        console.print("[bold red]Alarm:[/] ", end="", highlight=False)
        console.print(alarm, highlight=False, markup=False)


def print_gap(found: Mapping[str, Any], console: Console) -> None:
    """From the predicted effect to the measured one, part by part."""
    table = Table("", "relative effect", "95 % interval")
    rows = [("predicted", found["predicted"])]
    rows += [(f"+ {name}", part) for name, part in found["parts"].items() if name not in found["not_looked_at"]]
    rows += [("+ unexplained", found["unexplained"]), ("measured", found["measured"])]
    for name, own in rows:
        table.add_row(name, f"{own['value']:+.2%}", f"{_percent(own['low'])} to {_percent(own['high'])}")
    console.print(f"{found['rows']:,} replayed rows; the parts add up to the measured effect.", highlight=False)
    console.print(table)
    console.print(
        "What is unexplained may be chance."
        if found["is_explained"]
        else "What is unexplained is more than chance: look further.",
        highlight=False,
    )
    if found["not_looked_at"]:
        console.print(
            f"Not looked at, as the rows say nothing of it: {', '.join(found['not_looked_at'])}.", highlight=False
        )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2%}"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.5g}"


def metric_text(plan: Mapping[str, Any]) -> str:
    """The metric in words."""
    terms = [
        ("" if one["weight"] == 1 else f"{one['weight']:g} · ")
        + one["task"]
        + (f" · {one['value']}" if one["value"] else "")
        for one in plan["terms"]
    ]
    return f"{' + '.join(terms)} per {plan['unit']}"


def _print_slices(slices: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table("slice", "value", "users", "relative effect", "low", "high", "")
    for one in slices:
        relative = one["relative"]
        numbers = (
            ("–", "–", "–") if relative is None else tuple(_number(relative[part]) for part in ("value", "low", "high"))
        )
        table.add_row(
            one["slice"], one["value"], f"{sum(one['users']):,}", *numbers,
            "too few" if relative is None else "differs" if one["differs"] else "",
        )  # fmt: skip
    console.print(table)
    console.print(
        "`differs`: after Benjamini-Hochberg over all slices; intervals are those of a single look.", highlight=False
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4g}"


def _days(days: int | None) -> str:
    return "never" if days is None else f"{days:,} days"
