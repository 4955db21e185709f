//! Child processes: what they inherit, how long they may take, what is said when they fail.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// A command without what the cargo that started us has added to the environment.
///
/// Left in, those variables would reach the inner cargo's build scripts and make it rebuild.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if is_of_outer_cargo(&name) {
            command.env_remove(name);
        }
    }
    match env::var_os("LD_LIBRARY_PATH").map(|path| without_toolchain(&path)) {
        Some(path) if path.is_empty() => command.env_remove("LD_LIBRARY_PATH"),
        Some(path) => command.env("LD_LIBRARY_PATH", path),
        None => &mut command,
    };
    command
}

/// The cargo that started us, or the one on PATH.
pub fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command to its end; an error unless it succeeds.
pub fn succeed(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("failed to start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// What a command prints on stdout; its stderr is part of the error where it fails.
pub fn stdout_of(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to start {}", shown(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} failed: {}: {}",
            shown(command),
            output.status,
            stderr.trim()
        );
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} printed what is not UTF-8", shown(command)))
}

/// Runs a command that may hang on a network that does not answer; `None` when time ran out.
pub fn succeed_within(limit: Duration, command: &mut Command) -> Result<Option<ExitStatus>> {
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("failed to start {}", shown(command)))?;
    let watch = Stopwatch::start();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if watch.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The first file of that name on PATH or in the directories of system programs.
pub fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&path_with(&[]))
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

/// PATH behind `first`, with the system programs' directories that ordinary users often lack.
pub fn path_with(first: &[PathBuf]) -> OsString {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let mut dirs = first.to_vec();
    dirs.extend(env::split_paths(&inherited));
    for system in ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"] {
        if !dirs.iter().any(|dir| dir == Path::new(system)) {
            dirs.push(system.into());
        }
    }
    env::join_paths(dirs).unwrap_or(inherited)
}

/// A path as one word of a shell script.
pub fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// Measures how long our own steps take.
pub struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "the rule is the tracer's; this times a build"
    )]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

fn is_of_outer_cargo(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST_")
            || [
                "CARGO_BIN_NAME",
                "CARGO_CRATE_NAME",
                "CARGO_PRIMARY_PACKAGE",
                "OUT_DIR",
            ]
            .contains(&name)
    })
}

/// Cargo and rustup put their own directories here, where they would hide a missing rpath.
fn without_toolchain(path: &OsStr) -> OsString {
    let ours = env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(Path::to_owned));
    let toolchain = env::var_os("CARGO").and_then(|cargo| {
        Path::new(&cargo)
            .parent()
            .and_then(Path::parent)
            .map(|dir| dir.join("lib"))
    });
    let foreign = env::split_paths(path).filter(|dir| {
        ![&ours, &toolchain]
            .into_iter()
            .flatten()
            .any(|theirs| dir.starts_with(theirs))
    });
    env::join_paths(foreign).unwrap_or_default()
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

fn shown(command: &Command) -> String {
    let words = [command.get_program()]
        .into_iter()
        .chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    format!("`{}`", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_ended_and_one_that_ends_is_not() {
        let hung = succeed_within(Duration::from_millis(100), Command::new("sleep").arg("30"));
        assert_eq!(hung.unwrap(), None);
        let ended = succeed_within(Duration::from_secs(30), &mut Command::new("true"));
        assert!(ended.unwrap().unwrap().success());
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error =
            stdout_of(Command::new("sh").args(["-c", "echo gone >&2; exit 3"])).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("sh -c") && error.contains("gone") && error.contains('3'),
            "{error}"
        );
    }

    #[test]
    fn the_packages_own_variables_belong_to_the_outer_cargo_and_the_users_do_not() {
        assert!(is_of_outer_cargo(OsStr::new("CARGO_PKG_NAME")));
        assert!(is_of_outer_cargo(OsStr::new("CARGO_MANIFEST_DIR")));
        for kept in [
            "CARGO",
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_NET_OFFLINE",
        ] {
            assert!(!is_of_outer_cargo(OsStr::new(kept)), "{kept}");
        }
    }
}
