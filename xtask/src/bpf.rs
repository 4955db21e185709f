//! The BPF object: how cargo is called for it, and what makes it a real one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use object::{Object as _, ObjectSection as _};

use crate::{rustc::Rustc, setup::Toolchain, workspace::Workspace};

/// The kernel reads its host's byte order.
pub const TARGET: &str = if cfg!(target_endian = "big") {
    "bpfeb-unknown-none"
} else {
    "bpfel-unknown-none"
};

/// BPF's third instruction set: atomics that return the old value, 32-bit jumps. Linux 5.12.
const CPU: &str = "v3";

/// Builds the object, checks it, and puts it where tracer's build script finds it.
pub fn build(workspace: &Workspace, toolchain: &Toolchain) -> Result<PathBuf> {
    let mut cargo = cargo(workspace, toolchain, "build");
    crate::child::succeed(&mut cargo).context("failed to build the BPF object")?;
    let built = target_dir(workspace).join(TARGET).join("release/tracer");
    let bytes = fs::read(&built).with_context(|| format!("failed to read {}", built.display()))?;
    verify(&bytes).with_context(|| format!("{} is no BPF object to load", built.display()))?;
    let object = workspace.object();
    if fs::read(&object).is_ok_and(|there| there == bytes) {
        return Ok(object);
    }
    let dir = workspace.target.join("bpf");
    fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
    let part = dir.join("tracer.bpf.o.part");
    fs::write(&part, &bytes).with_context(|| format!("failed to write {}", part.display()))?;
    fs::rename(&part, &object).with_context(|| format!("failed to write {}", object.display()))?;
    Ok(object)
}

/// `cargo VERB` on the BPF crate.
pub fn cargo(workspace: &Workspace, toolchain: &Toolchain, verb: &str) -> Command {
    let mut cargo = toolchain.rustc.cargo();
    cargo
        .args([verb, "--package", "tracer-ebpf"])
        // Apart from the host's: RUSTC_BOOTSTRAP would make build scripts there run again.
        .arg("--target-dir")
        .arg(target_dir(workspace))
        .current_dir(&workspace.root);
    for_bpf(
        &mut cargo,
        &toolchain.rustc,
        &toolchain.linker,
        toolchain.compiler.as_deref(),
    );
    cargo
}

/// Completes a cargo command so that it compiles for BPF, as aya-build would.
pub fn for_bpf<'a>(
    cargo: &'a mut Command,
    rustc: &Rustc,
    linker: &Path,
    compiler: Option<&Path>,
) -> &'a mut Command {
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", bpf_target_arch(&rustc.host)),
        "-Cdebuginfo=2".into(),
        // rustc tells the linker too.
        format!("-Ctarget-cpu={CPU}"),
        "-Clink-arg=--btf".into(),
    ];
    let linker_variable = TARGET.to_uppercase().replace('-', "_");
    if let Some(compiler) = compiler {
        cargo.env("RUSTC", compiler);
    }
    cargo
        .args(["--release", "--target", TARGET, "-Zbuild-std=core"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env(format!("CARGO_TARGET_{linker_variable}_LINKER"), linker)
        // Meant for the host's compiler and code.
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_BUILD_TARGET")
}

/// An ELF file for BPF: what any linked program is.
pub fn verify_elf(path: &Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    parse(&bytes).map(drop)
}

/// The very object, whole, in the program: a stub or an older one would show only when it runs.
pub fn verify_embedded(program: &Path, object: &Path) -> Result<()> {
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("failed to read {}", path.display()));
    ensure!(
        holds(&read(program)?, &read(object)?),
        "{} does not hold {}",
        program.display(),
        object.display()
    );
    Ok(())
}

fn holds(program: &[u8], object: &[u8]) -> bool {
    !object.is_empty() && memchr::memmem::find(program, object).is_some()
}

/// What the kernel and the loader ask for: programs, their types, a licence.
fn verify(bytes: &[u8]) -> Result<()> {
    let file = parse(bytes)?;
    for section in [".BTF", "license"] {
        let size = file
            .section_by_name(section)
            .map_or(0, |section| section.size());
        ensure!(size > 0, "it has no section {section}");
    }
    let has_program = file.sections().any(|section| {
        section.kind() == object::SectionKind::Text
            && section.size() > 0
            && section.name().is_ok_and(|name| name != ".text")
    });
    ensure!(has_program, "it has no program");
    Ok(())
}

fn parse(bytes: &[u8]) -> Result<object::File<'_>> {
    let file = object::File::parse(bytes).context("it is no ELF file")?;
    if file.architecture() != object::Architecture::Bpf {
        bail!("it is for {:?}, not for BPF", file.architecture());
    }
    Ok(file)
}

fn target_dir(workspace: &Workspace) -> PathBuf {
    workspace.target.join("bpf-build")
}

/// The host's architecture as cargo's `target_arch` spells it.
fn bpf_target_arch(host: &str) -> &str {
    match host.split('-').next().unwrap_or(host) {
        arch if arch.starts_with("riscv64") => "riscv64",
        arch if arch.starts_with("powerpc64") => "powerpc64",
        arch => arch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_or_the_hosts_own_program_is_no_object() {
        assert!(verify(b"").is_err());
        let this = fs::read(std::env::current_exe().unwrap()).unwrap();
        let error = verify(&this).unwrap_err().to_string();
        assert!(error.contains("not for BPF"), "{error}");
    }

    #[test]
    fn the_object_is_in_a_program_whole_or_not_at_all() {
        let object: Vec<u8> = (0..=255).collect();
        let mut program = object[..100].to_vec();
        assert!(!holds(&program, &object));
        program.extend(&object);
        assert!(holds(&program, &object));
        assert!(!holds(&program, &[]), "any program would hold a stub");
    }

    #[test]
    fn the_architecture_is_spelled_as_cargo_does() {
        assert_eq!(bpf_target_arch("x86_64-unknown-linux-gnu"), "x86_64");
        assert_eq!(bpf_target_arch("riscv64gc-unknown-linux-gnu"), "riscv64");
        assert_eq!(
            bpf_target_arch("powerpc64le-unknown-linux-gnu"),
            "powerpc64"
        );
    }
}
