//! `cargo xtask vm`: the tests that trace the kernel, on other kernels than this machine's.
//!
//! Each of Debian's kernels boots in an emulator (no KVM: it must run where there is none) with
//! everything that the tests need in its initial file system, and powers off when they have ended.
//! What the kernel, the emulator and busybox are, set-up finds and fetches once.
//!
//! Emulated processors are ten to twenty times slower: see [`SKIPPED`].

mod guest;
mod initramfs;
mod machine;

use std::{
    ffi::OsString,
    fmt::Display,
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use self::{guest::Script, initramfs::Initramfs, machine::Outcome};
use crate::{
    bpf,
    child::Stopwatch,
    setup::{self, Kernel},
    test::{Binaries, Binary, Count, PRIVILEGED},
    workspace::Workspace,
};

/// Tests that do not run inside, and why. Each is a part of names, as libtest's `--skip` takes it.
/// Of the loads the others make a fiftieth, and they are patient: TRACER_TEST_SLOW=1.
const SKIPPED: [(&str, &str); 5] = [
    ("loss::", "a load that fills the ring within a second"),
    ("backlog::", "a load that fills the ring within a second"),
    (
        "interleaved::",
        "thousands at once: now and then a processor is away for the millisecond that tells two events apart",
    ),
    (
        "bpf_statistics",
        "the same load once more: the kernel's statistics change no event",
    ),
    ("promptness::", "milliseconds, and a processor's idle time"),
];

/// Where the unit tests have what `--save-btf` brings out.
const FIXTURES: &str = "tracer/src/btf/fixtures";

/// What `cargo xtask vm` is asked for.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A kernel of Debian's, by the first two numbers of its version; may be repeated
    #[arg(long, value_name = "VERSION", value_parser = setup::kernel_names(), default_values = ["6.1", "6.12"])]
    kernel: Vec<String>,

    /// Only save each kernel's BTF, cut down to what tracer reads, beside the unit tests that hold it
    #[arg(long, conflicts_with = "tests")]
    save_btf: bool,

    /// Passed to every test binary: a part of the tests' names, --nocapture
    #[arg(last = true)]
    tests: Vec<OsString>,
}

/// Boots one kernel after the other; the last line is the count.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the kernels are for x86_64, and so must be what runs inside"
    );
    let emulator = setup::emulator(workspace)?;
    let kernels: Vec<Kernel> = args
        .kernel
        .iter()
        .map(|name| setup::kernel(workspace, name))
        .collect::<Result<_>>()?;
    let tools = setup::tests(workspace)?;
    let toolchain = setup::toolchain(workspace)?;
    bpf::build(workspace, &toolchain)?;
    let binaries = Binaries::build(workspace)?;
    let chosen: Vec<&Binary> = binaries
        .tests
        .iter()
        .filter(|binary| is_chosen(binary, args.save_btf))
        .collect();

    let interrupted = hold_signals()?;
    let script = if args.save_btf {
        Script::saving_btf(&binaries, &chosen)
    } else {
        Script::testing(
            &binaries,
            &chosen,
            &SKIPPED.map(|(name, _)| name),
            &args.tests,
            &tools,
        )
    };
    if !args.save_btf {
        for (name, reason) in SKIPPED {
            say(format_args!("not inside: {name} ({reason})"));
        }
    }
    let mut sums = Vec::new();
    for kernel in &kernels {
        let watch = Stopwatch::start();
        let image = workspace.setup().join("vm").join("initramfs");
        Initramfs::new(kernel, &binaries, &chosen, &script, &tools)?.write(&image)?;
        say(format_args!("booting Linux {}", kernel.release));
        let outcome = if args.save_btf {
            let files = [kernel.file("saved.btf"), kernel.file("vmlinux.btf")];
            let outcome = machine::run(&emulator, kernel, &image, &files, &interrupted)?;
            if outcome.count.failed == 0 {
                keep(workspace, kernel, &files)?;
            }
            outcome
        } else {
            machine::run(&emulator, kernel, &image, &[], &interrupted)?
        };
        sums.push((kernel, outcome, watch.elapsed()));
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
    }
    let mut bad = interrupted.load(Ordering::Relaxed);
    for (kernel, outcome, took) in &sums {
        for line in &outcome.skipped {
            println!("{}: skipped: {line}", kernel.name);
        }
        let Outcome { count, .. } = outcome;
        println!(
            "Linux {}: {count} ({:.0} s)",
            kernel.release,
            took.as_secs_f32()
        );
        bad |= count.failed > 0 || (args.tests.is_empty() && *count == Count::default());
    }
    Ok(if bad {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Lays what came out beside the unit tests that hold it.
fn keep(workspace: &Workspace, kernel: &Kernel, [saved, whole]: &[PathBuf; 2]) -> Result<()> {
    let fixture = workspace
        .root
        .join(FIXTURES)
        .join(format!("{}.btf", kernel.name));
    fs::copy(saved, &fixture).with_context(|| format!("failed to write {}", fixture.display()))?;
    say(format_args!(
        "saved {}; the whole of it is {}",
        fixture.display(),
        whole.display()
    ));
    Ok(())
}

/// The tests that trace run inside; the unit tests of the library only save.
fn is_chosen(binary: &Binary, save_btf: bool) -> bool {
    if save_btf {
        binary.kind == "lib" && binary.name == "tracer"
    } else {
        binary.kind == "test" && PRIVILEGED.contains(&binary.name.as_str())
    }
}

/// Signals that would end us and leave the emulator behind.
fn hold_signals() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::default();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

fn say(what: impl Display) {
    eprintln!("vm: {what}");
}
