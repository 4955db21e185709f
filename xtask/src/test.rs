//! `cargo xtask test`: set up, build, run every test, and count.
//!
//! Everything is built and run as the user. Only the test targets of [`PRIVILEGED`] run as root,
//! beside the others, since they mostly wait. A test that finds it cannot run adds a line with its
//! name and reason to the file named by TRACER_TEST_SKIPS and returns: it counts as skipped, and
//! with CI=true as failed.

mod binaries;
mod job;
mod libtest;

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use self::job::{Beside, Job};
use crate::{
    bpf,
    child::{self, Stopwatch},
    root::{self, Root},
    setup,
    workspace::Workspace,
};

pub use self::{
    binaries::{Binaries, Binary},
    libtest::Count,
};

/// Integration tests of tracer that trace the kernel.
pub const PRIVILEGED: [&str; 2] = ["live", "wire"];

/// What `cargo xtask test` is asked for.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Passed to every test binary: a part of the tests' names, --nocapture
    #[arg(last = true)]
    tests: Vec<OsString>,
}

/// Runs everything; the last line is the count.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let mut watch = Stopwatch::start();
    let mut phases = Vec::new();
    let mut phase = |name: &'static str| {
        let ended = std::mem::replace(&mut watch, Stopwatch::start());
        phases.push((name, ended.elapsed()));
    };

    let toolchain = setup::toolchain(workspace)?;
    let path = child::path_with(&setup::tests(workspace)?);
    phase("set-up");
    bpf::build(workspace, &toolchain)?;
    let binaries = Binaries::build(workspace)?;
    phase("build");

    let skips = Skips::begin(workspace)?;
    let (privileged, ordinary): (Vec<_>, Vec<_>) = binaries
        .tests
        .iter()
        .partition(|binary| binary.kind == "test" && PRIVILEGED.contains(&binary.name.as_str()));
    let mut sum = Count::default();
    let (beside, root) = match root_for(&privileged)? {
        Ok(root) => {
            let jobs = privileged.iter().map(|binary| {
                let mut variables = binaries.variables(binary, &path, &skips.file);
                variables.push(("TRACER_TEST_ROOT".into(), "1".into()));
                // Root must not write into the sources.
                variables.push(("INSTA_UPDATE".into(), "no".into()));
                let mut command = root.command(&binary.executable, &variables);
                command.args(&args.tests).current_dir(&binary.package);
                Job {
                    name: format!("{} (as root)", binary.title()),
                    command,
                }
            });
            (Some(Beside::start(jobs.collect())), root)
        }
        Err(reason) => {
            for binary in &privileged {
                let list = child::command(&binary.executable)
                    .arg("--list")
                    .args(&args.tests)
                    .output()?;
                let count = Count::skipping(&String::from_utf8_lossy(&list.stdout));
                println!(
                    "--- {}: skipped, {} tests: {reason}",
                    binary.title(),
                    count.skipped
                );
                sum += count;
            }
            (None, Root::Already)
        }
    };

    for binary in ordinary {
        let mut command = Root::Already.command(
            &binary.executable,
            &binaries.variables(binary, &path, &skips.file),
        );
        command.args(&args.tests).current_dir(&binary.package);
        sum += Job {
            name: binary.title(),
            command,
        }
        .run(print)?;
    }
    let mut command = workspace.cargo();
    command
        .args(["test", "--quiet", "--doc", "--"])
        .args(&args.tests);
    sum += Job {
        name: "documentation".into(),
        command,
    }
    .run(print)?;
    phase("tests");
    if let Some(beside) = beside {
        sum += beside.finish(print)?;
        phase("waiting for the tests as root");
    }
    give_back(&workspace.target.join("tmp"), root)?;

    let skipped = skips.read()?;
    for line in &skipped {
        println!("skipped: {line}");
    }
    sum = sum.with_skips(u64::try_from(skipped.len())?);
    let mut bad = sum.failed > 0;
    if is_ci() && !skipped.is_empty() {
        println!("test: with CI=true no test may skip");
        bad = true;
    }
    if args.tests.is_empty() && sum.total() == 0 {
        println!("test: there was no test to run");
        bad = true;
    }
    eprintln!("test: {}", shown(&phases));
    println!("{sum}");
    Ok(if bad {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The way to root, or why the tests that need it are skipped; with CI=true that is an error.
fn root_for(privileged: &[&Binary]) -> Result<Result<Root, String>> {
    if privileged.is_empty() {
        return Ok(Err(String::new()));
    }
    match root::ask("test", "tracing the kernel") {
        Ok(root) => Ok(Ok(root)),
        Err(error) if is_ci() => bail!("with CI=true no test may skip: {error:#}"),
        Err(error) => Ok(Err(format!("{error:#}"))),
    }
}

fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|ci| ci == "true")
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "a sink for the lines of a job"
)]
fn print(line: String) {
    println!("{line}");
}

fn shown(phases: &[(&str, Duration)]) -> String {
    let shown = phases
        .iter()
        .map(|(name, took)| format!("{name} {:.1} s", took.as_secs_f32()));
    shown.collect::<Vec<_>>().join(", ")
}

/// What tests run as root left in their directory for temporary files belongs to the user.
fn give_back(dir: &Path, root: Root) -> Result<()> {
    if root == Root::Already || !dir.exists() {
        return Ok(());
    }
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let foreign = |entry: fs::DirEntry| entry.metadata().is_ok_and(|it| it.uid() != user.as_raw());
    if fs::read_dir(dir)?.flatten().any(foreign) {
        let owner = format!("{}:{}", user.as_raw(), group.as_raw());
        let mut chown = root.command(Path::new("chown"), &[]);
        child::succeed(chown.args(["-R", "--no-dereference", &owner]).arg(dir))?;
    }
    Ok(())
}

/// The file in which tests say that they could not run.
struct Skips {
    file: PathBuf,
}

impl Skips {
    fn begin(workspace: &Workspace) -> Result<Self> {
        let file = workspace.setup().join("skipped-tests");
        fs::write(&file, "").with_context(|| format!("failed to write {}", file.display()))?;
        Ok(Self { file })
    }

    fn read(&self) -> Result<Vec<String>> {
        let lines = fs::read_to_string(&self.file)
            .with_context(|| format!("failed to read {}", self.file.display()))?;
        Ok(lines.lines().map(str::to_owned).collect())
    }
}
