//! What runs inside: a shell script in the place of init, and what it says on the console.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use crate::{
    child,
    test::{Binaries, Binary},
};

/// Begins every line that is not the tests' own. What follows: `begin NAME`, `end NAME STATUS`,
/// `skipped NAME: REASON`, `over`.
pub const MARK: &str = "@vm@ ";

/// The file in which tests say that they could not run.
const SKIPS: &str = "/tmp/skipped-tests";
/// The file that the saving test writes.
const SAVED: &str = "/tmp/saved.btf";
const PATH: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Of one test binary. Where nothing else runs, none takes half of it.
const LIMIT_SECONDS: u32 = 900;

/// More tests than processors: most of them wait.
const THREADS: &str = "4";

/// Mounts what a Linux system has mounted, loads the modules in their order, sets the loopback up.
const BEGINNING: &str = "\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
for module in /modules/*; do insmod $module || echo \"$module does not load\"; done
hostname vm
ip link set lo up
ulimit -n 65536
";

/// Without a word of farewell the tests have not run to their end.
const END: &str = "\
echo \"@vm@ over\"
poweroff -f
";

/// The whole of init.
#[derive(Debug)]
pub struct Script(String);

impl Script {
    /// Runs each binary as `cargo xtask test` does as root.
    pub fn testing(
        binaries: &Binaries,
        chosen: &[&Binary],
        skipped: &[&str],
        arguments: &[OsString],
        tools: &[PathBuf],
    ) -> Self {
        let mut words = String::new();
        for name in skipped {
            words += &format!(" --skip {}", quoted(name));
        }
        for argument in arguments {
            words += &format!(" {}", quoted(argument));
        }
        let directories = tools.iter().map(PathBuf::as_path);
        let path = env::join_paths(directories.chain(PATH.map(Path::new))).unwrap_or_default();
        let mut script = BEGINNING.to_owned();
        for binary in chosen {
            script += &run(
                binaries,
                binary,
                &path,
                &[
                    ("TRACER_TEST_ROOT", "1"),
                    ("TRACER_TEST_SLOW", "1"),
                    ("INSTA_UPDATE", "no"),
                    ("RUST_TEST_THREADS", THREADS),
                ],
                &words,
            );
        }
        script += &format!("[ -f {SKIPS} ] && sed 's/^/{MARK}skipped /' {SKIPS}\n");
        script += END;
        Self(script)
    }

    /// Runs the one test that saves the kernel's BTF cut down; it and the whole go to the second and
    /// the third serial port.
    pub fn saving_btf(binaries: &Binaries, chosen: &[&Binary]) -> Self {
        let mut script = BEGINNING.to_owned();
        for binary in chosen {
            let words = " btf::saved::the_running_kernel";
            script += &run(
                binaries,
                binary,
                OsStr::new(""),
                &[("TRACER_SAVE_BTF", SAVED)],
                words,
            );
        }
        // The first serial port is the console.
        for (number, file) in (1..).zip([SAVED, "/sys/kernel/btf/vmlinux"]) {
            script += &format!("stty -F /dev/ttyS{number} raw\ncat {file} > /dev/ttyS{number}\n");
        }
        script += "sleep 2\n";
        script += END;
        Self(script)
    }

    pub fn text(&self) -> &str {
        &self.0
    }
}

fn run(
    binaries: &Binaries,
    binary: &Binary,
    path: &OsStr,
    more: &[(&str, &str)],
    words: &str,
) -> String {
    let mut variables = binaries.variables(binary, path, SKIPS.as_ref());
    variables.retain(|(name, _)| more.iter().all(|(own, _)| name != own));
    let own = more
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.into()));
    variables.extend(own);
    let variables: String = variables
        .iter()
        .map(|(name, value)| format!("{name}={} ", quoted(value)))
        .collect();
    format!(
        "echo '{MARK}begin {name}'\ncd {package}\n\
         env -i {variables}timeout {LIMIT_SECONDS} {executable}{words} 2>&1\n\
         echo \"{MARK}end {name} $?\"\n",
        name = binary.title(),
        package = child::quoted(&binary.package),
        executable = child::quoted(&binary.executable),
    )
}

fn quoted(word: impl AsRef<OsStr>) -> String {
    child::quoted(word.as_ref().as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_runs_each_binary_where_its_tests_expect_to_run() {
        let binary = Binary {
            name: "live".into(),
            kind: "test".into(),
            executable: "/t/it's live".into(),
            package: PathBuf::from("/w/tracer"),
        };
        let binaries = Binaries::default();
        let script = Script::testing(&binaries, &[&binary], &["slow::"], &["resets".into()], &[]);
        let text = script.text();
        assert!(text.contains("cd '/w/tracer'\n"), "{text}");
        assert!(text.contains("TRACER_TEST_ROOT='1'"), "{text}");
        assert!(
            text.contains(r"'/t/it'\''s live' --skip 'slow::' 'resets' 2>&1"),
            "{text}"
        );
        assert!(text.ends_with("poweroff -f\n"), "{text}");
    }
}
