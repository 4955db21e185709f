//! Embeds the BPF object that `cargo xtask build` makes, or a stub where there is none.
//!
//! The object is not built here, so that checks, unit tests and `cargo install` need no BPF
//! toolchain. It is looked for in
//! 1. the file that TRACER_BPF_OBJECT names;
//! 2. `bpf/tracer.bpf.o` beside this file, where a packaged crate carries it;
//! 3. `bpf/tracer.bpf.o` in the target directory, where xtask puts it.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

const VARIABLE: &str = "TRACER_BPF_OBJECT";
const OBJECT: &str = "tracer.bpf.o";

fn main() -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");

    let object = match env::var_os(VARIABLE) {
        Some(named) => {
            println!("cargo::rerun-if-changed={}", Path::new(&named).display());
            Some(PathBuf::from(named))
        }
        None => search(&package, &out_dir)?,
    };
    let bytes = match object {
        Some(object) => {
            let bytes = fs::read(&object)
                .map_err(|error| format!("failed to read {}: {error}", object.display()))?;
            if !bytes.starts_with(b"\x7fELF") {
                return Err(format!("{} is no BPF object", object.display()).into());
            }
            bytes
        }
        None => Vec::new(),
    };
    fs::write(out_dir.join(OBJECT), bytes)?;
    Ok(())
}

fn search(package: &Path, out_dir: &Path) -> Result<Option<PathBuf>, Box<dyn Error>> {
    let mut dirs = vec![package.join("bpf")];
    if let Some(target) = target_dir(out_dir) {
        let dir = target.join("bpf");
        // A file that is missing would make cargo run this again and again. So the directory is
        // what it watches, and for that it has to be there.
        fs::create_dir_all(&dir)?;
        dirs.push(dir);
    }
    for dir in dirs.into_iter().filter(|dir| dir.is_dir()) {
        println!("cargo::rerun-if-changed={}", dir.display());
        let object = dir.join(OBJECT);
        if object.exists() {
            return Ok(Some(object));
        }
    }
    Ok(None)
}

/// The target directory that `out_dir` lies in: the directory with what cargo keeps at the top of one,
/// or, since a first build may ask before cargo keeps anything, the one where cargo's layout has it.
///
/// CACHEDIR.TAG would not do: the directories of single targets below it have one too, and a
/// target directory that was there before cargo has none.
fn target_dir(out_dir: &Path) -> Option<&Path> {
    let kept = |dir: &&Path| dir.join(".rustc_info.json").exists();
    out_dir.ancestors().find(kept).or_else(|| {
        // [target/]profile/build/package/out
        let above = out_dir.ancestors().nth(4)?;
        let is_of_one_target = env::var_os("TARGET").as_deref() == above.file_name();
        if is_of_one_target {
            above.parent()
        } else {
            Some(above)
        }
    })
}
