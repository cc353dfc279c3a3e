"""Generate Go and Java code from the contract and compile an example of each against it: `make languages`.

Debian has what it needs. A language whose tools are missing is skipped, and said to be.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.contract import ROOT, compiled, sources, without_rules

IMPORTED = (
    "google/api/annotations.proto",
    "google/api/field_behavior.proto",
    "google/api/http.proto",
    "google/api/resource.proto",
    "google/rpc/status.proto",
)
JARS = Path("/usr/share/java")
JAVA_JARS = (
    *(
        "protobuf",
        "grpc-api",
        "grpc-core",
        "grpc-protobuf",
        "grpc-stub",
        "guava",
        "geronimo-annotation-1.3-spec",
    ),
)
JAVA_PACKAGES = (
    "default-jdk-headless protobuf-compiler protobuf-compiler-grpc-java-plugin libgrpc-java libprotobuf-java"
    " libgeronimo-annotation-1.3-spec-java"
)
GO_SOURCES = Path("/usr/share/gocode")
GO_WELL_KNOWN = {
    "duration": "github.com/golang/protobuf/ptypes/duration",
    "timestamp": "github.com/golang/protobuf/ptypes/timestamp",
    "field_mask": "google.golang.org/genproto/protobuf/field_mask",
}
"""Where the libraries that Debian has keep them. Newer ones need no such list."""
GO_PACKAGES = "golang-go protobuf-compiler golang-goprotobuf-dev golang-google-grpc-dev"


def protoc(*options: str, files: Sequence[str]) -> None:
    """Generates code with Debian's compiler, whose version is that of its libraries. Debian has none for the
    rules of protovalidate, so the files are those without.
    """
    with tempfile.NamedTemporaryFile(suffix=".binpb") as plain:
        plain.write(without_rules(compiled(more=IMPORTED)).SerializeToString())
        plain.flush()
        run("protoc", f"--descriptor_set_in={plain.name}", *options, *files)


def run(*command: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> None:
    """Runs a command; a failure ends the program."""
    if subprocess.run(command, check=False, cwd=cwd, env=environment).returncode != 0:
        raise SystemExit(f"{command[0]} failed")


def missing_for(commands: Sequence[str], files: Sequence[Path]) -> list[str]:
    """The tools that are not installed."""
    return [
        *(command for command in commands if shutil.which(command) is None),
        *(str(file) for file in files if not file.exists()),
    ]


def java(directory: Path) -> str:
    """Compiles the example in Java."""
    generated, classes = directory / "generated", directory / "classes"
    generated.mkdir()
    protoc(f"--java_out={generated}", files=[*sources(), *IMPORTED])
    plugin = shutil.which("grpc_java_plugin")
    protoc(f"--plugin=protoc-gen-grpc-java={plugin}", f"--grpc-java_out={generated}", files=sources())
    files = sorted(map(str, generated.rglob("*.java")))
    jars = os.pathsep.join(str(JARS / f"{name}.jar") for name in JAVA_JARS)
    listed = directory / "files"
    listed.write_text("\n".join([*files, str(ROOT / "examples" / "java" / "Check.java")]), encoding="utf-8")
    run("javac", "-nowarn", "-proc:none", "-d", str(classes), "-classpath", jars, f"@{listed}")
    assert (classes / "Check.class").exists()
    return f"{len(files)} generated files"


def go(directory: Path) -> str:
    """Compiles the example in Go."""
    package = directory / "src" / "milepost" / "v1"
    package.mkdir(parents=True)
    mapped = ",".join(f"Mgoogle/protobuf/{file}.proto={path}" for file, path in GO_WELL_KNOWN.items())
    protoc(f"--go_out=plugins=grpc,{mapped}:{directory / 'src'}", files=sources())
    example = directory / "src" / "example"
    shutil.copytree(ROOT / "examples" / "go", example)
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": f"{directory}{os.pathsep}{GO_SOURCES}",
        "GOCACHE": str(directory / "cache"),
        "GOFLAGS": "-p=2",
    }
    run("go", "build", "-o", str(directory / "check"), "example", environment=environment)
    return f"{len(list(package.glob('*.go')))} generated files"


def main() -> int:
    """Compile each; 0 also when one was skipped."""
    languages = (
        (
            "Java",
            java,
            ("javac", "protoc", "grpc_java_plugin"),
            [JARS / f"{name}.jar" for name in JAVA_JARS],
            JAVA_PACKAGES,
        ),
        (
            "Go",
            go,
            ("go", "protoc", "protoc-gen-go"),
            [GO_SOURCES / "src/google.golang.org/grpc"],
            GO_PACKAGES,
        ),
    )
    for name, compile_example, commands, files, packages in languages:
        if missing := missing_for(commands, files):
            print(
                f"SKIPPED: {name}: {', '.join(missing)} missing: apt-get install {packages}", file=sys.stderr
            )
            continue
        with tempfile.TemporaryDirectory() as scratch:
            print(f"{name}: the example compiles against {compile_example(Path(scratch))}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
