#!/usr/bin/env python3
"""Holds the files of docker/ against each other, against the program's settings and against OpenFaaS' contract.

What a linter of Dockerfiles cannot know. Reads the YAML with ruamel.yaml (MIT), a wheel of pure Python.
"""
import json
import re
import sys
import tempfile
import zipfile
from pathlib import Path

from fetching import fetch_wheel, venv_python

YAML = ("ruamel.yaml==0.18.6", "57b53ba33def16c4f3d807c0ccbc00f8a6081827e81ba2491691b76882d0c636")
ROOT = Path(__file__).resolve().parent.parent

# What faas-cli reads of a function; it passes over anything else without a word.
FUNCTION = set("""lang handler image fprocess environment environment_file secrets skip_build constraints labels annotations
    limits requests readonly_root_filesystem build_options build_args build_secrets platforms namespace""".split())
SERVICE = set("image command environment ports volumes read_only tmpfs depends_on restart stop_grace_period".split())

problems = []


def demand(holds, where, what):
    if not holds:
        problems.append(f"{where}: {what}")


def settings():
    """The variables that set something: ours, and the names of OpenFaaS that we know."""
    text = (ROOT / "src" / "config" / "settings.rs").read_text()
    ours = re.findall(r'Setting::(?:value|list|switch)\(\s*"(\w+)"', text)
    return {"STAGELINE_" + key.upper() for key in ours} | set(re.findall(r'\.also\("(\w+)"\)', text))


def instructions(path):
    """The instructions of a Dockerfile, a list of (word, rest) for each stage, lines joined and comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    stages = [[]]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        if word:
            stages[-1].append((word, rest.strip()))
    return stages


def variables(stage):
    pairs = (pair for word, rest in stage if word == "ENV" for pair in re.findall(r'(\w+)=("[^"]*"|\S+)', rest))
    return dict(pairs)


def check_dockerfile(path, known):
    where = f"docker/{path.name}"
    stages = instructions(path)
    last = stages[-1]
    words = dict(last)
    for stage in stages[1:]:
        base = stage[0][1].split()[0]
        demand(base.startswith("$") or re.search(r":[\w.-]*\d", base), where, f"{base} has no tag that names a version")
        rust = re.match(r"rust:(\d+\.\d+)", base)
        least = re.search(r'rust-version = "(\d+\.\d+)"', (ROOT / "Cargo.toml").read_text())[1]
        number = lambda version: [int(part) for part in version.split(".")]
        demand(not rust or number(rust[1]) >= number(least), where, f"{base} is older than Cargo.toml's rust-version {least}")
        cuda = re.match(r"nvidia/cuda:(\d+\.\d+)", base)
        ours = re.search(r"nvidia-cuda-nvcc==(\d+\.\d+)", (ROOT / "scripts" / "fetch-cuda").read_text())[1]
        demand(not cuda or cuda[1] == ours, where, f"{base} is not the CUDA {ours} that scripts/fetch-cuda fetches")
        for name in variables(stage):
            demand(not name.startswith("STAGELINE_") or name in known, where, f"{name} is no setting")
    if last[0][1].startswith("$"):
        return
    user = words.get("USER", "0")
    demand(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), where, f"USER {user} is not a number above 0 for user and group")
    demand(words.get("EXPOSE") == "8080", where, "a function serves on port 8080, which EXPOSE has to say")
    demand(json.loads(words.get("ENTRYPOINT", "[]")) == ["stageline"], where, "the program must be process 1")
    demand("STAGELINE_PIPELINE" in variables(last), where, "STAGELINE_PIPELINE is not set, which compose.yaml mounts")
    check_reachable(where, variables(last))


def check_reachable(where, environment):
    """The program listens on the loopback unless it is told: in a container nobody would reach it there."""
    for name in ("STAGELINE_HTTP", "STAGELINE_HOP_LISTEN"):
        demand(environment.get(name, "").startswith("0.0.0.0:"), where, f"{name} does not say 0.0.0.0")


def users():
    """The users of nats.conf, each with the variable that its password is in, and the pipeline's name that it is for."""
    text = (ROOT / "docker" / "nats.conf").read_text()
    demand(not re.search(r"password: [^$]", text), "docker/nats.conf", "a password is a constant")
    names = set(re.findall(r"stageline\.v1\.([\w-]+)\.", text)) - {"<pipeline>"}
    demand(len(names) == 1, "docker/nats.conf", f"it is for one pipeline, not {sorted(names)}")
    return dict(re.findall(r"user: ([\w-]+)\s+password: \$(\w+)", text)), names.pop()


def check_user(where, user, stage, name):
    known, pipeline = users()
    demand(user == ("door" if stage == 0 else f"stage-{stage}"), where, f"{user} is not its stage's user")
    demand(user in known, where, f"nats.conf has no user {user}")
    demand(name == pipeline, where, f"STAGELINE_NAME is {name}, and nats.conf is for {pipeline}")


def check_stages(where, numbers):
    demand(sorted(numbers) == list(range(len(numbers))), where, f"stages are numbered from 0, each once: not {numbers}")


def check_environment(where, environment, known):
    for name, value in environment.items():
        demand(isinstance(value, str), where, f"{name} is not text: quote it")
        demand(name in known or name == "write_timeout", where, f"{name} is no setting")


def check_compose(compose, known):
    pipeline = variables(instructions(ROOT / "docker" / "cpu.Dockerfile")[-1])["STAGELINE_PIPELINE"]
    services = compose["services"]
    stages = []
    for name, service in services.items():
        where = f"docker/compose.yaml: {name}"
        demand(set(service) <= SERVICE, where, f"unknown: {sorted(set(service) - SERVICE)}")
        if service["image"].startswith("nats:"):
            demand("--jetstream" in service["command"], where, "stages keep their leases in JetStream")
            mounted = f'./nats.conf:{service["command"][-1]}:ro'
            demand(service["volumes"] == [mounted], where, "nats.conf is not mounted where the command looks for it")
            demand(set(service["environment"]) == set(users()[0].values()), where, "its users' passwords are not all told")
            demand(all(v.startswith("${") for v in service["environment"].values()), where, "a password is a constant")
            continue
        image = re.fullmatch(r"stageline:(\w+)", service["image"])
        demand(image and (ROOT / "docker" / f"{image[1]}.Dockerfile").is_file(), where, "no Dockerfile is for its image")
        environment = service["environment"]
        check_environment(where, environment, known)
        check_reachable(where, environment)
        broker = re.fullmatch(r"nats://([\w-]+):\$\{(\w+)\}@([\w-]+):4222", environment["STAGELINE_NATS"])
        demand(broker and broker[3] in services and broker[3] in service["depends_on"], where, "its broker is no service")
        stage = int(environment["STAGELINE_STAGE"])
        if broker:
            check_user(where, broker[1], stage, environment["STAGELINE_NAME"])
            demand(users()[0].get(broker[1]) == broker[2], where, f"{broker[2]} is not the password of {broker[1]}")
        stages.append(stage)
        demand(service["ports"] == (["8080:8080"] if stage == 0 else []), where, "the door, and it alone, has a port")
        demand(service["read_only"] is True and service["tmpfs"] == ["/tmp"], where, "its root can be written to")
        demand(any(v.endswith(f":{pipeline}:ro") for v in service["volumes"]), where, f"nothing is mounted at {pipeline}")
    check_stages("docker/compose.yaml", stages)


def check_stack(stack, known):
    where = "docker/stack.yaml"
    demand(set(stack) <= {"version", "provider", "functions", "configuration"}, where, "an unknown key at the top")
    demand(stack["provider"]["name"] == "openfaas", where, "there is one provider: openfaas")
    stages = []
    for name, function in stack["functions"].items():
        where = f"docker/stack.yaml: {name}"
        demand(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name), where, "not a function's name")
        demand(set(function) <= FUNCTION, where, f"faas-cli would pass over {sorted(set(function) - FUNCTION)}")
        check_environment(where, function["environment"], known)
        for kind in ("labels", "annotations"):
            demand(all(isinstance(v, str) for v in function[kind].values()), where, f"{kind} are text: quote them")
        scale = [function["labels"][f"com.openfaas.scale.{end}"] for end in ("min", "max")]
        demand(scale == ["1", "1"], where, "a stage is not scaled by the requests that the gateway sees")
        stage = function["environment"]["STAGELINE_STAGE"]
        demand(name.endswith(f"-{stage}"), where, f"it serves stage {stage}")
        stages.append(int(stage))
        environment = function["environment"]
        check_reachable(where, environment)
        check_user(where, environment["STAGELINE_NATS_USER"], int(stage), environment["STAGELINE_NAME"])
        secret = environment["STAGELINE_NATS_PASSWORD_FILE"].removeprefix("/var/openfaas/secrets/")
        demand(function["secrets"] == [secret], where, f"the secret {secret} is not given to it")
    check_stages("docker/stack.yaml", stages)


def main():
    name, sha = YAML
    wheel = fetch_wheel(venv_python(), name, [sha])
    # From a folder: a package without an __init__.py of its own, as ruamel is, is not found in an archive.
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(wheel).extractall(folder)
        sys.path.insert(0, folder)
        from ruamel.yaml import YAML as Yaml
        compose, stack = (Yaml(typ="safe", pure=True).load(ROOT / "docker" / f"{name}.yaml") for name in ("compose", "stack"))

    known = settings()
    for path in sorted((ROOT / "docker").glob("*Dockerfile")):
        check_dockerfile(path, known)
    check_compose(compose, known)
    check_stack(stack, known)
    if problems:
        raise SystemExit("error: " + "\nerror: ".join(problems))


if __name__ == "__main__":
    main()
