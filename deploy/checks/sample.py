"""Sample metrics: of a healthy host, and of a host with all problems at once."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

Labels = dict[str, str]
Samples = Iterator[tuple[Labels, float]]


@dataclass(frozen=True)
class Host:
    """The health of a host."""

    well: bool


GOOD = Host(well=True)
BAD = Host(well=False)

TUNNELS = ("sixxs0", "sixxs1")
STATES = ("down", "waiting", "connecting", "up", "locked_out", "failed")
LEVELS = ("healthy", "degraded", "failing")
TREATMENTS = ("redirected", "dropped", "observed", "too_big")
BOUNDS = ("0.001", "0.01", "0.1", "1.0", "+Inf")


def page(host: Host, scrape: int) -> str:
    """The page of metrics for the scrape with this number: counters grow with the number."""
    lines = []
    for name, kind, help_text, samples in families(host, scrape):
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
        for suffix, labels, value in written(kind, samples):
            inner = ",".join(f'{key}="{text}"' for key, text in labels.items())
            lines.append(f"{name}{suffix}{{{inner}}} {float(value)}" if inner else f"{name}{suffix} {float(value)}")
    return "\n".join([*lines, "# EOF"]) + "\n"


def written(kind: str, samples: Samples) -> Iterator[tuple[str, Labels, float]]:
    """The samples of a family: the suffix of the name, the labels, the value."""
    for labels, value in samples:
        match kind:
            case "histogram":
                # Of ten values, five are within 1 ms, and nine within 10 ms.
                for bound, share in zip(BOUNDS, (0.5, 0.9, 0.9, 1, 1), strict=True):
                    yield "_bucket", labels | {"le": bound}, value * share
                yield "_sum", labels, value * 0.01
                yield "_count", labels, value
            case "counter":
                yield "_total", labels, value
            case "info":
                yield "_info", labels, value
            case _:
                yield "", labels, value


def families(host: Host, scrape: int) -> Iterator[tuple[str, str, str, Samples]]:
    """Name, type, help and samples of each metric family."""
    now = time.time()
    ill = not host.well
    grows = 100 * scrape
    trouble = grows if ill else 7
    interfaces = ("net0", *TUNNELS)

    def one(value: float) -> Samples:
        yield {}, value

    def each(label: str, values: tuple[str, ...], value: float) -> Samples:
        yield from (({label: text}, value) for text in values)

    def both_ways(value: float) -> Samples:
        for interface in interfaces:
            yield from (({"interface": interface, "direction": direction}, value) for direction in ("in", "out"))

    def tunnels(*values: float) -> Samples:
        yield from (({"tunnel": tunnel}, value) for tunnel, value in zip(TUNNELS, values, strict=True))

    def states() -> Samples:
        for tunnel in TUNNELS:
            is_in = "failed" if ill and tunnel == "sixxs0" else "up"
            yield from (({"tunnel": tunnel, "state": state}, state == is_in) for state in STATES)

    def health() -> Samples:
        for tunnel in TUNNELS:
            # Only a tunnel that is up is failing: the other one has an alert for its state.
            troubled = "degraded" if tunnel == "sixxs0" else "failing"
            has = troubled if ill else "healthy"
            yield from (({"tunnel": tunnel, "health": level}, level == has) for level in LEVELS)

    def leaks() -> Samples:
        for tunnel in TUNNELS:
            yield from (({"tunnel": tunnel, "treatment": treatment}, trouble) for treatment in TREATMENTS)

    yield "sixxs_build", "info", "The version.", iter([({"version": "0.1.0"}, 1)])
    yield "sixxs_healthy", "gauge", "Whether all is well.", one(host.well)
    yield "sixxs_problems", "gauge", "What could not be done.", one(2 * ill)
    yield "sixxs_corrections", "counter", "Rules, routes and other objects that were removed and have been restored", one(trouble)
    yield "sixxs_lost_events", "counter", "Leaks that the daemon did not hear of.", one(trouble)
    yield "sixxs_repair_duration_seconds", "histogram", "How long repairs took.", one(trouble)
    yield "sixxs_interface_packets", "counter", "Packets.", both_ways(grows)
    yield "sixxs_interface_bytes", "counter", "Bytes.", both_ways(grows * 100)
    yield "sixxs_echo_requests", "counter", "Echo requests.", both_ways(grows)
    yield "sixxs_echo_replies", "counter", "Echo replies.", both_ways(grows)
    for what in ("request", "reply"):
        last = f"sixxs_echo_last_{what}_timestamp_seconds"
        yield last, "gauge", f"When the last echo {what} was seen.", each("interface", TUNNELS, now - 1)
    yield "sixxs_strays", "counter", "Packets with a source of no tunnel.", each("interface", TUNNELS, trouble)
    yield "sixxs_recursions", "counter", "Outer packets that would have gone into their own tunnel.", each("tunnel", TUNNELS, trouble)
    yield "sixxs_loops", "counter", "Packets that would have come back.", each("interface", TUNNELS, trouble)
    yield "sixxs_program_attached", "gauge", "Whether the program is there.", each("interface", interfaces, host.well)
    yield "sixxs_uplink_leaks", "counter", "Leaks that came here.", each("interface", ("net0",), trouble)
    yield "sixxs_tunnel_leaks", "counter", "Leaks of the tunnel's sources.", leaks()
    yield "sixxs_tunnel_state", "gauge", "Its state.", states()
    yield "sixxs_tunnel_health", "gauge", "Its health.", health()
    peers = ({"tunnel": "wg0", "peer": "EubuXzSuUq4meOpuMWC+CK+4/ZQaZZ7e8AjGCv/8p3Q="},)
    handshake = "sixxs_wireguard_latest_handshake_timestamp_seconds"
    yield handshake, "gauge", "The latest handshake.", iter((labels, now - 60) for labels in peers)
    endpoint = {"endpoint": "198.51.100.2:51820"}
    yield "sixxs_wireguard_endpoint", "gauge", "The endpoint.", iter((labels | endpoint, 1) for labels in peers)
    active = ({"group": "lan", "link": link} for link in TUNNELS)
    yield "sixxs_group_link_active", "gauge", "The link that carries it.", iter((labels, 1) for labels in active)
    yield "sixxs_group_switches", "counter", "Other links took over.", iter([({"group": "lan"}, trouble)])
    yield "sixxs_probe_loss_ratio", "gauge", "Lost probes.", each("tunnel", TUNNELS, 0)
    yield "sixxs_probe_reply_seconds", "gauge", "Median of the replies.", each("tunnel", TUNNELS, 0.01)
    yield "sixxs_tunnel_routing_in_place", "gauge", "Whether rules and routes are there.", tunnels(1, host.well)
    refused = iter([({"tunnel": "sixxs1", "reason": "signature"}, trouble)])
    yield "sixxs_tunnel_refused", "counter", "What was not let in.", refused
    # On a host with trouble one tunnel does not answer, and the other one answers three of four requests.
    answered = (5, 0.75 * grows) if ill else (grows, grows)
    # The same number again arrives in floods.
    yield "sixxs_tunnel_requests", "counter", "Pings from outside.", tunnels(2 * grows, 2 * grows)
    yield "sixxs_tunnel_requests_forgotten", "counter", "Those of which it is not known.", tunnels(grows, grows)
    yield "sixxs_tunnel_requests_answered", "counter", "Those that were answered.", tunnels(*answered)
    astray = (trouble, 0) if ill else (7, 7)
    yield "sixxs_tunnel_requests_astray", "counter", "Those whose reply went elsewhere.", tunnels(*astray)
    yield "sixxs_tunnel_reply_duration_seconds", "histogram", "Request to reply.", tunnels(grows, grows)
    brokers = ("198.51.100.1", "198.51.100.2")
    free = 0 if ill else 3
    yield "sixxs_broker_connect_slots", "gauge", "Connects in a window.", each("broker", brokers, 3)
    yield "sixxs_broker_connect_slots_free", "gauge", "Of these, free.", each("broker", brokers, free)
    locked = "sixxs_broker_locked_out_until_timestamp_seconds"
    yield locked, "gauge", "The end of a lockout.", each("broker", brokers[:1] if ill else (), now + 300)
    hooks = ("command", "webhook")
    yield "sixxs_hook_dropped", "counter", "Alerts that it was too slow for.", each("hook", hooks, trouble)
