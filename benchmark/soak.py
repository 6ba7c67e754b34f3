# SPDX-License-Identifier: Apache-2.0
"""The node under load and faults for a chosen time: does it lose, mix up, slow down or grow?

    python benchmark/soak.py --minutes 60 --out soak        # or: make soak MINUTES=60

Three processes beside this one: the node (`soak_node`: faults in the engine, the executor's own
10 Hz timer, memory), three cameras (`soak_cameras`: raw 1080p at 30 Hz, compressed, one that stops
and comes back with other images), four clients (`soak_clients`: ask, stream, cancel, time out).
Each writes its figures once in some seconds; once a minute all of them go into <out>.json and
<out>.md, so that a run that is killed leaves what it has seen.

Exit status 1 if a request was lost, a header was wrong, an image older than asked was used, or a
fact that was added live was published late.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from svd_vlm_ros.cli.domain import reserved_domain
from svd_vlm_ros.cpu import cpu_name

HERE = Path(__file__).resolve().parent
ROLES = ("node", "cameras", "clients")
CHECKPOINT = 60.0  # s
FIRST_CHECKPOINT = 10.0
START = os.getpid()  # where a domain is looked for: each run elsewhere
END_WITHIN = 60.0  # s that the roles have to end: the last requests have their timeouts
STOP_EVERY, STOPPED = 8, 3.0  # faults between two halts of the node (SIGSTOP), and their s
# Keys of the reports keep their names, those of earlier runs among them; people read these.
WORDS = {"wrong_picture": "wrong image", "malformed picture": "malformed image"}
HARMS = ("lost", "wrong_header", "too_old", "wrong_picture", "facts_late")
LEAST = 5  # minutes of memory from which a slope is given
ENDS = 10  # minutes of which the first and the last are compared
TARGETS = {"timer_p99_ms": 50.0, "memory_mib_per_hour": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=Path("soak"), help="<out>.json and <out>.md")
    parser.add_argument("--model", default="random:tiny", help="as the node's parameter")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--fault-every", type=float, default=20.0, help="seconds; 0: no faults")
    parser.add_argument("--width", type=int, default=1920, help="of the raw camera's images")
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--rate", type=float, default=30.0, help="raw images a second")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds after each request")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, reserved_domain(START) as domain:
        run(options, Path(folder), domain)


def run(options: argparse.Namespace, folder: Path, domain: int) -> None:
    """Start the roles, write a report each minute and one at the end."""
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "OMP_NUM_THREADS": str(options.threads),
        "ROS_LOG_DIR": str(folder / "log"),
    }
    profile = str(HERE.parent / "config" / "fastdds_large_pictures.xml")
    for variable in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):
        environment.setdefault(variable, profile)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    begun = time.monotonic()
    roles: dict[str, subprocess.Popen] = {}
    log = Path(f"{options.out}.log")
    with open(log, "w") as output:
        try:
            for role in ROLES:
                arguments = [sys.executable, str(HERE / f"soak_{role}.py"), str(folder)]
                arguments.append(json.dumps({**vars(options), "out": str(options.out)}))
                roles[role] = subprocess.Popen(
                    arguments, env=environment, stdout=output, stderr=subprocess.STDOUT
                )
            failure = watch(options, folder, roles, begun)
        except KeyboardInterrupt:
            failure = "stopped by Ctrl-C"
        finally:
            end(roles)
            report = write(options, folder, begun, locals().get("failure", "ended early"))
    print(f"{options.out}.md and {options.out}.json; what the processes printed is in {log}")
    sys.exit(0 if report["good"] else 1)


def watch(
    options: argparse.Namespace, folder: Path, roles: dict[str, subprocess.Popen], begun: float
) -> str:
    """Wait for the clients' end; why it came too early, or ""."""
    checkpoint, stop = FIRST_CHECKPOINT, begun + STOP_EVERY * options.fault_every
    while roles["clients"].poll() is None:
        time.sleep(0.5)
        for role, process in roles.items():
            if why := _ended(role, process):
                return why
        if options.fault_every and time.monotonic() > stop:
            stop = time.monotonic() + STOP_EVERY * options.fault_every
            roles["node"].send_signal(signal.SIGSTOP)
            time.sleep(STOPPED)
            roles["node"].send_signal(signal.SIGCONT)
        if time.monotonic() - begun > checkpoint:
            write(options, folder, begun, "still running")
            checkpoint += CHECKPOINT
    return _ended("clients", roles["clients"])


def _ended(role: str, process: subprocess.Popen) -> str:
    """That a role ended in another way than it should; "": it did not."""
    status = process.poll()
    return f"the process of the {role} ended with status {status}" if status else ""


def end(roles: dict[str, subprocess.Popen]) -> None:
    """End the processes that this one has started, the clients first."""
    for process in reversed(roles.values()):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(END_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def write(options: argparse.Namespace, folder: Path, begun: float, failure: str) -> dict[str, Any]:
    """Put the roles' figures together and write both reports, each in one move."""
    figures: dict[str, Any] = {}
    for role in ROLES:
        path = folder / f"{role}.json"
        figures[role] = json.loads(path.read_text()) if path.exists() else {}
    clients, node = figures["clients"], figures["node"]
    totals = {
        key: sum(each.get(key, 0) for each in clients.get("each", {}).values())
        for key in ("sent", "answered", *HARMS)
    }
    harm = sum(totals[key] for key in HARMS)
    report = {
        "good": bool(totals["sent"]) and not harm and failure in ("", "still running"),
        "ended": failure or "as planned",
        "minutes": round((time.monotonic() - begun) / 60, 2),
        "model": f"{options.model} in {options.precision}, {options.threads} thread(s)",
        "machine": f"{os.cpu_count()} CPUs, {cpu_name()}, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": " ".join(["python", "benchmark/soak.py", *sys.argv[1:]]),
        "totals": totals,
        **figures,
    }
    _replace(Path(f"{options.out}.json"), json.dumps(report, indent=2) + "\n")
    _replace(Path(f"{options.out}.md"), markdown(report, clients, node, figures["cameras"]))
    return report


def markdown(report: dict, clients: dict, node: dict, cameras: dict) -> str:
    """The report for people."""
    totals, timer, memory = report["totals"], node.get("timer", {}), node.get("memory", {})
    statuses = sorted(
        {name for each in clients.get("each", {}).values() for name in each["by_status"]}
    )
    lines = [
        f"`{report['command']}`: {report['minutes']:g} minutes, ended {report['ended']};",
        f"{report['model']}; {report['machine']}; load {report['load']}; {report['date']}",
        "",
        f"{totals['sent']} requests: {totals['lost']} lost, {totals['wrong_header']} with a wrong "
        f"header, {totals['wrong_picture']} about another image than their header's, "
        f"{totals['too_old']} from an image older than asked; {totals['facts_late']} facts late.",
        "",
        f"| client | sent | {' | '.join(statuses)} | lost | median | 95 % | 99 % | longest |",
        f"|---|---|{'---|' * len(statuses)}---|---|---|---|---|",
    ]
    for name, each in clients.get("each", {}).items():
        counts = " | ".join(str(each["by_status"].get(status, 0)) for status in statuses)
        seconds = " | ".join(f"{value:.3f} s" for value in each["seconds"])
        lines.append(f"| {name} | {each['sent']} | {counts} | {each['lost']} | {seconds} |")
    lines += [
        "",
        "| | | asked for |",
        "|---|---|---|",
        f"| executor's 10 Hz timer late, median | {_ms(timer.get('median'))} | |",
        f"| executor's 10 Hz timer late, 99 % | {_ms(timer.get('p99'))} | < "
        f"{TARGETS['timer_p99_ms']:.0f} ms |",
        f"| executor's 10 Hz timer late, worst | {_ms(timer.get('worst'))} | |",
        f"| resident memory at the end | {memory.get('resident_mib', 0):.0f} MiB | |",
        *_memory_rows(memory),
        "",
        "| fault | times |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in sorted(node.get("faults", {}).items())),
        *(
            f"| {WORDS.get(name, name)} | {count} |"
            for name, count in sorted(cameras.get("faults", {}).items())
        ),
        *(f"| {name} | {count} |" for name, count in sorted(clients.get("faults", {}).items())),
        "",
        "| camera | published | received by the node | lost on the way |",
        "|---|---|---|---|",
    ]
    for name, sent in cameras.get("published", {}).items():
        got = node.get("cameras", {}).get(name, {})
        lines.append(f"| {name} | {sent} | {got.get('received', 0)} | {got.get('lost', 0)} |")
    wrong = clients.get("wrong", [])
    if wrong:
        lines += ["", "What was wrong first:", "", *(f"- {sentence}" for sentence in wrong)]
    return "\n".join(lines) + "\n"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f} ms"


def _memory_rows(memory: dict[str, Any]) -> list[str]:
    """Slope and ends of each series, of which there is a value a minute."""
    asked = f"< {TARGETS['memory_mib_per_hour']:.0f} MiB/h"
    series = (
        ("in_use", "memory in use", "MiB", asked),
        ("own", "own memory, with what the C library holds free", "MiB", ""),
        ("blocks", "Python's small objects", "blocks", ""),
    )
    rows = []
    for name, words, unit, bar in series:
        values = memory.get(name, [])
        if len(values) < LEAST:
            rows.append(f"| {words}, slope | too short | {bar} |")
            continue
        slope, error = slope_and_error([minute / 60 for minute in range(len(values))], values)
        first, last = (statistics.median(part) for part in (values[:ENDS], values[-ENDS:]))
        after = f"slope after {memory.get('warm_up_s', 0):.0f} s"
        rows.append(f"| {words}, {after} | {slope:,.1f} ± {error:,.1f} {unit}/h | {bar} |")
        rows.append(
            f"| the same, first and last {ENDS} minutes | {first:,.1f}, {last:,.1f} {unit} | |"
        )
    return rows


def slope_and_error(at: list[float], values: list[float]) -> tuple[float, float]:
    """The least-squares slope of values, and its standard error."""
    (slope, _), covariance = np.polyfit(at, values, 1, cov=True)
    return float(slope), float(covariance[0, 0] ** 0.5)


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.replace(path)


if __name__ == "__main__":
    main()
