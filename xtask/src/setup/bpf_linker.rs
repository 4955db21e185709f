//! bpf-linker, built against the LLVM inside the compiler in use, so that both are the same LLVM.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    say,
    stamp::{Stamp, remove_if_there},
};
use crate::{
    bpf, child,
    rustc::{KNOWN_GOOD, PIN, Rustc},
};

const VERSION: &str = "0.13.0";
/// The LLVMs that this version has a Cargo feature for.
const LLVMS: [u32; 3] = [21, 22, 23];

/// Finds a linker that works with this compiler, or builds one.
pub fn ensure(setup: &Path, rustc: &Rustc, compiler: Option<&Path>) -> Result<PathBuf> {
    let dir = setup.join("bpf-linker");
    let ours = dir.join("bin/bpf-linker");
    let version = format!("bpf-linker {VERSION}");
    // It loads LLVM from there.
    let sysroot = rustc.sysroot.to_string_lossy();
    let stamp = Stamp::new(dir.join("stamp"), &[&rustc.stamp(), &version, &sysroot]);
    if stamp.is_current() && ours.exists() {
        return Ok(ours);
    }
    if let Some(found) = child::on_path("bpf-linker") {
        let probed = Stamp::new(
            setup.join("bpf-linker-on-path.stamp"),
            &[&rustc.stamp(), &found.to_string_lossy(), &modified(&found)],
        );
        if probed.is_current() {
            return Ok(found);
        }
        say(format_args!("trying {} on a probe", found.display()));
        match probe(&setup.join("probe"), rustc, &found, compiler) {
            Ok(()) => {
                probed.set()?;
                return Ok(found);
            }
            Err(error) => say(format_args!("{} does not do: {error:#}", found.display())),
        }
    }
    stamp.clear()?;
    install(&dir, rustc)?;
    child::stdout_of(child::command(&ours).arg("--version"))
        .context("the bpf-linker just built does not start")?;
    stamp.set()?;
    Ok(ours)
}

fn install(dir: &Path, rustc: &Rustc) -> Result<()> {
    let Some(feature) = feature(rustc.llvm) else {
        bail!(
            "rustc {} carries LLVM {}, which bpf-linker {VERSION} does not know (it knows {LLVMS:?}). \
             An older toolchain can build the BPF crate alone:\n  \
             rustup toolchain install {KNOWN_GOOD} --profile minimal --component rust-src\n  \
             export {PIN}={KNOWN_GOOD}\nand try again",
            rustc.release,
            rustc.llvm
        );
    };
    let library = rustc.llvm_library()?;
    let lib = rustc.sysroot.join("lib");
    let lib = lib.to_str().context("the sysroot's path is not UTF-8")?;
    say(format_args!(
        "building bpf-linker {VERSION} against {library} (about a minute)"
    ));
    let flags = [
        format!("-Lnative={lib}"),
        format!("-Clink-arg=-Wl,-rpath,{lib}"),
        format!("-Clink-arg=-l{library}"),
    ];
    let build = dir.join("build");
    child::succeed(
        rustc
            .cargo()
            .args([
                "install",
                "--quiet",
                "--locked",
                "--force",
                "bpf-linker",
                "--version",
                VERSION,
            ])
            .args(["--no-default-features", "--features"])
            .arg(format!("{feature},no-llvm-linking"))
            .arg("--root")
            .arg(dir)
            .arg("--target-dir")
            .arg(&build)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_BUILD_TARGET"),
    )
    .with_context(|| {
        format!("failed to build bpf-linker {VERSION}; it needs a C compiler (`cc`) and crates.io")
    })?;
    remove_if_there(&build)
}

fn feature(llvm: u32) -> Option<String> {
    LLVMS.contains(&llvm).then(|| format!("llvm-{llvm}"))
}

/// Links the smallest BPF program there is.
fn probe(dir: &Path, rustc: &Rustc, linker: &Path, compiler: Option<&Path>) -> Result<()> {
    fs::create_dir_all(dir.join("src"))?;
    fs::write(
        dir.join("Cargo.toml"),
        "[workspace]\n[package]\nname = \"probe\"\nversion = \"0.0.0\"\nedition = \"2024\"\n",
    )?;
    fs::write(
        dir.join("src/main.rs"),
        "#![no_std]\n#![no_main]\n\
         #[unsafe(no_mangle)]\n#[unsafe(link_section = \"socket\")]\n\
         pub extern \"C\" fn probe(_context: *mut u8) -> i32 { 0 }\n\
         #[panic_handler]\nfn panic(_: &core::panic::PanicInfo) -> ! { loop {} }\n",
    )?;
    let target = dir.join("target");
    let mut cargo = rustc.cargo();
    cargo
        .arg("build")
        .arg("--target-dir")
        .arg(&target)
        .current_dir(dir);
    let built = child::stdout_of(bpf::for_bpf(&mut cargo, rustc, linker, compiler))
        .and_then(|_| bpf::verify_elf(&target.join(bpf::TARGET).join("release/probe")));
    remove_if_there(dir)?;
    built
}

fn modified(file: &Path) -> String {
    let modified = fs::metadata(file).and_then(|metadata| metadata.modified());
    format!("{:?}", modified.ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_llvm_that_the_linker_knows_has_a_feature() {
        assert_eq!(feature(22).as_deref(), Some("llvm-22"));
        assert_eq!(feature(20), None);
        assert_eq!(feature(24), None);
    }
}
