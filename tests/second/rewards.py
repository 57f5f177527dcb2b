"""A second implementation of epochs, from features to the Merkle root, with Python's standard library only.

Written from the definitions in docs/rewards.md, not from the Rust code. Reads one EpochInput (JSON) a line and
writes one result a line; anybody can use it to check what was published:

    python3 rewards.py < inputs.jsonl
"""

import json
import sys

from expression import NoValue, evaluate, parse
from keccak import keccak256

MAX_WEIGHT = 10**12
RADIUS = 6371009


def features_of(spec, device):
    totals = {total["metric"]: total for total in device["totals"] if total["count"] > 0}
    values = {}
    for feature in spec["features"]:
        total = totals.get(feature["metric"])
        kind = feature["aggregate"]
        if kind in ("Sum", "Delta", "Count"):
            key = {"Sum": "sum", "Delta": "increase", "Count": "count"}[kind]
            value = int(total[key]) if total else 0
        elif kind == "Uptime":
            filled = total["slots"] if total else 0
            value = min(10_000, filled * 10_000 // device["slots"]) if device["slots"] else 0
        elif total is None:
            value = None
        elif kind == "Mean":
            value = int(total["sum"]) // total["count"]
        else:
            value = int(total[{"Min": "min", "Max": "max", "Last": "lastValue"}[kind]])
        if value is not None and not -(1 << 63) <= value < 1 << 63:
            value = None
        values[feature["name"]] = value
    seen = any(feature["metric"] in totals for feature in spec["features"])
    return values, seen


def weigh(spec, tree, device):
    """Features, weight before limits, reasons."""
    values, seen = features_of(spec, device)
    if not seen:
        return values, 0, ["Suspended" if device.get("suspended") else "NoData"]
    shut = []
    for gate in spec.get("gates", []):
        value = values[gate["feature"]]
        low, high = gate.get("minimum"), gate.get("maximum")
        if value is None or (low is not None and value < low) or (high is not None and value > high):
            shut.append(gate["reason"])
    if shut:
        return values, 0, shut
    try:
        weight = evaluate(tree, values)
    except NoValue:
        return values, 0, ["WeightError"]
    if weight == 0:
        return values, 0, ["ZeroWeight"]
    if not 0 < weight <= MAX_WEIGHT:
        return values, 0, ["WeightError"]
    return values, weight, []


def rank(by, device, values):
    value = values[by] if by else None
    return (value is None, -(value or 0), device["since"], bytes.fromhex(device["id"]))


def too_close(metres, a, b):
    chord = sum((p - q) ** 2 for p, q in zip(a["unit"], b["unit"]))
    return chord * RADIUS * RADIUS < metres * metres << 60


def limit_kind(limit):
    (kind, rule), = limit.items()
    return kind, rule


def admit(spec, wanting):
    """Refusals by device id of (device, values) that have a weight."""
    refused = {}
    for kind, rule in map(limit_kind, spec.get("limits", [])):
        order = sorted((pair for pair in wanting if pair[0]["id"] not in refused), key=lambda pair: rank(rule.get("by"), *pair))
        cells, taken = {}, []
        for device, _ in order:
            place = device.get("place")
            if place is None:
                refused[device["id"]] = "NoLocation"
            elif kind == "hexCapacity":
                cells[place["cell"]] = cells.get(place["cell"], 0) + 1
                if cells[place["cell"]] > rule["capacity"]:
                    refused[device["id"]] = "CellFull"
            elif any(too_close(rule["metres"], place, other) for other in taken):
                refused[device["id"]] = "TooClose"
            else:
                taken.append(place)
    return refused


def claims(spec, standing, late):
    """(room, claims) or a reason, by device id, for devices that were not admitted and whose weight rose after the close."""
    answer = {device["id"]: (1, 1) for device, _ in late}
    for kind, rule in map(limit_kind, spec.get("limits", [])):
        order = sorted((pair for pair in late if isinstance(answer[pair[0]["id"]], tuple)), key=lambda pair: rank(rule.get("by"), *pair))
        for device, _ in order:
            if device.get("place") is None:
                answer[device["id"]] = "NoLocation"
        order = [device for device, _ in order if device.get("place") is not None]
        places = [device["place"] for device in standing if device.get("place") is not None]
        for device in order:
            place = device["place"]
            if kind == "hexCapacity":
                room = rule["capacity"] - sum(1 for other in places if other["cell"] == place["cell"])
                wanted = sum(1 for other in order if other["place"]["cell"] == place["cell"])
                answer[device["id"]] = (min(room, wanted), wanted) if room > 0 else "CapacityTaken"
            elif any(too_close(rule["metres"], place, other) for other in places):
                answer[device["id"]] = "CapacityTaken"
            else:
                places.append(place)
    return answer


def minted_by(emission, number):
    (kind, rule), = emission.items()
    amount = int(rule["amount"])
    if kind == "fixed":
        return amount
    steps = number // rule["everyEpochs"]
    if kind == "halving":
        return amount >> min(steps, 200)
    for _ in range(steps):
        if amount == 0:
            break
        amount = amount * rule["keepBasisPoints"] // 10_000
    return amount


class Flow:
    """Amounts under way."""

    def __init__(self, state):
        self.carry = int(state["carry"])
        self.held = {(entry["device"], entry["number"]): int(entry["amount"]) for entry in state["held"]}
        self.released = {(entry["device"], entry["number"]): (int(entry["amount"]), entry["shares"]) for entry in state.get("released", [])}
        self.gross, self.debts, self.unallocated = {}, {}, 0

    def owners(self, device):
        shares = device["shares"]
        return shares if sum(share["basisPoints"] for share in shares) <= 10_000 else []

    def pay(self, device, amount, number):
        if amount == 0:
            return
        shares = self.owners(device)
        if not shares:
            self.held[device["id"], number] = self.held.get((device["id"], number), 0) + amount
            return
        left = amount
        for share in shares:
            part = amount * share["basisPoints"] // 10_000
            left -= part
            self.gross[share["account"]] = self.gross.get(share["account"], 0) + part
        self.carry += left

    def correct(self, device, epoch, amount):
        """What was taken back."""
        shares, key, taken = self.owners(device), (device["id"], epoch), 0
        if not shares:
            taken = min(amount, self.held.get(key, 0))
            if taken:
                self.held[key] -= taken
                self.carry += taken
            got, shares = self.released.pop(key, (0, []))
            amount = min(amount - taken, got)
        for share in shares:
            part = amount * share["basisPoints"] // 10_000
            taken += part
            self.debts[share["account"]] = self.debts.get(share["account"], 0) + part
        return taken

    def release(self, device):
        if self.owners(device):
            waiting = [key for key in self.held if key[0] == device["id"]]
            self.released.update({key: (self.held[key], self.owners(device)) for key in waiting})
            self.pay(device, sum(self.held.pop(key) for key in waiting), None)


def settle_late(flow, closing, opened, matured):
    """The dues of an epoch that matures now: {device: paid} and the totals."""
    spec = matured["spec"]
    tree = parse(spec["weight"])
    lines = {line["device"]: line for line in matured["lines"]}
    devices = sorted(matured["devices"], key=lambda device: device["id"])
    weighed = {device["id"]: weigh(spec, tree, device)[:2] for device in devices}
    admitted = {id for id, line in lines.items() if line["admitted"]}
    standing = [device for device in devices if device["id"] in admitted]
    before = {id: line["rawWeight"] for id, line in lines.items()}
    risen = [device for device in devices if weighed[device["id"]][1] > before.get(device["id"], 0)]
    late = [(device, weighed[device["id"]][0]) for device in risen if device["id"] not in admitted]
    parts = claims(spec, standing, late)
    pool, bucket, weight_sum = int(opened["pool"]), int(opened["bucket"]), int(opened["weightSum"])
    weights = {}
    for device in devices:
        raw, part = weighed[device["id"]][1], parts.get(device["id"], (1 if device["id"] in admitted else 0, 1))
        weights[device["id"]] = raw * part[0] // part[1] if isinstance(part, tuple) else 0
    dues, corrections = {}, {}
    for id, weight in weights.items():
        line = lines.get(id, {"weight": 0, "share": "0"})
        if weight_sum == 0:
            due = bucket * weight // sum(weights.values()) if weight else 0
        elif weight == line["weight"]:
            due = 0
        else:
            due = pool * weight // weight_sum - int(line["share"])
        dues[id], corrections[id] = max(due, 0), max(-due, 0)
    total = sum(dues.values())
    paid = {id: due * bucket // total if total > bucket else due for id, due in dues.items()}
    for device in devices:
        flow.pay(device, paid[device["id"]], closing)
        if corrections[device["id"]]:
            corrections[device["id"]] = flow.correct(device, matured["number"], corrections[device["id"]])
    flow.carry += bucket - sum(paid.values())
    return {
        "number": matured["number"], "bucket": bucket, "dues": total, "paid": sum(paid.values()),
        "corrections": sum(corrections.values()), "late": {id: amount for id, amount in paid.items() if amount},
    }


def merkle_root(leaves):
    if not leaves:
        return None
    hashes = sorted(keccak256(keccak256(bytes(12) + bytes.fromhex(account[2:]) + amount.to_bytes(32, "big"))) for account, amount in leaves)
    tree = [None] * (len(hashes) - 1) + hashes[::-1]
    for i in range(len(hashes) - 2, -1, -1):
        tree[i] = keccak256(b"".join(sorted(tree[2 * i + 1:2 * i + 3])))
    return "0x" + tree[0].hex()


def close(epoch):
    spec, state, number = epoch["spec"], epoch["state"], epoch["number"]
    end = spec["epoch"]["genesis"] + (number + 1) * spec["epoch"]["lengthMs"]
    opened = {entry["number"]: entry for entry in state["open"]}
    carried_in = int(state["carry"]) + sum(int(entry["bucket"]) for entry in state["open"]) + sum(int(entry["amount"]) for entry in state["held"])
    flow = Flow(state)
    matured = [settle_late(flow, number, opened[entry["number"]], entry) for entry in sorted(epoch["matured"], key=lambda entry: entry["number"])]

    suspended = spec.get("suspend", False)
    minted = 0 if suspended else minted_by(spec["emission"], number)
    parts = {part["name"]: minted * part["basisPoints"] // 10_000 for part in spec["split"]["parts"]}
    parts[spec["split"]["residual"]] += minted - sum(parts.values())
    own = 0
    for part in spec["split"]["parts"]:
        amount, to = parts[part["name"]], part["to"]
        if to == "devices":
            own = amount
        elif to == "unallocated":
            flow.unallocated += amount
        else:
            flow.gross[to["account"]] = flow.gross.get(to["account"], 0) + amount

    tree = parse(spec["weight"])
    devices = sorted(epoch["devices"], key=lambda device: device["id"])
    weighed = {device["id"]: weigh(spec, tree, device) for device in devices}
    if suspended:
        weighed = {id: (values, 0, ["ProgramSuspended"]) for id, (values, _, _) in weighed.items()}
    refused = admit(spec, [(device, weighed[device["id"]][0]) for device in devices if weighed[device["id"]][1] > 0])
    weights = {id: 0 if id in refused else raw for id, (_, raw, _) in weighed.items()}
    weight_sum = sum(weights.values())
    bucket = pool = 0
    if not suspended:
        whole, flow.carry = own + flow.carry, 0
        bucket = whole * spec["late"]["basisPoints"] // 10_000 if weight_sum else whole
        pool = whole - bucket

    shares, reasons = {}, {}
    for device in devices:
        flow.release(device)
    for device in devices:
        id = device["id"]
        shares[id] = pool * weights[id] // weight_sum if weights[id] else 0
        reasons[id] = list(weighed[id][2]) + ([refused[id]] if id in refused else [])
        if weights[id] and not shares[id]:
            reasons[id].append("ZeroShare")
        if shares[id] and not flow.owners(device):
            reasons[id].append("NoOwner")
        flow.pay(device, shares[id], number)
    flow.carry += pool - sum(shares.values())

    for key in [key for key in flow.held if number - key[1] >= spec["holdEpochs"]]:
        flow.unallocated += flow.held.pop(key)
    before = {entry["account"]: entry for entry in state["accounts"]}
    payouts, accounts = [], []
    for account in sorted(set(before) | set(flow.gross) | set(flow.debts)):
        old = before.get(account, {"cumulative": "0"})
        gross, debt = flow.gross.get(account, 0), int(old.get("debt", "0")) + flow.debts.get(account, 0)
        offset = min(gross, debt)
        flow.carry += offset
        cumulative = int(old["cumulative"]) + gross - offset
        if cumulative:
            payouts.append([account, str(gross - offset), str(cumulative)])
        if cumulative or debt - offset:
            accounts.append([account, str(cumulative), str(debt - offset)])

    buckets = [[entry["number"], entry["bucket"], entry["pool"]] for entry in state["open"] if entry["lateUntil"] > end]
    if bucket:
        buckets.append([number, str(bucket), str(pool)])
    still = {entry[0] for entry in buckets}
    released = sorted([device, since, str(amount), shares] for (device, since), (amount, shares) in flow.released.items() if since in still)
    held = sorted([device, since, str(amount)] for (device, since), amount in flow.held.items() if amount)
    carried_out = flow.carry + sum(int(entry[1]) for entry in buckets) + sum(int(entry[2]) for entry in held)
    assert sum(int(payout[1]) for payout in payouts) + flow.unallocated + carried_out == minted + carried_in, "not conserved"
    return {
        "minted": str(minted), "carriedIn": str(carried_in), "carriedOut": str(carried_out), "carry": str(flow.carry),
        "unallocated": str(flow.unallocated), "bucket": str(bucket), "pool": str(pool), "weightSum": str(weight_sum),
        "features": {id: [None if value is None else str(value) for value in values.values()] for id, (values, _, _) in weighed.items()},
        "weights": weights, "shares": {id: str(share) for id, share in shares.items()}, "reasons": reasons,
        "late": {str(entry["number"]): {id: str(amount) for id, amount in entry["late"].items()} for entry in matured},
        "corrections": {str(entry["number"]): str(entry["corrections"]) for entry in matured},
        "payouts": payouts, "accounts": accounts, "held": held, "open": buckets, "released": released,
        "root": merkle_root([(account, int(cumulative)) for account, _, cumulative in payouts]),
    }


if __name__ == "__main__":
    for text in sys.stdin:
        if text.strip():
            print(json.dumps(close(json.loads(text)), sort_keys=True), flush=True)
