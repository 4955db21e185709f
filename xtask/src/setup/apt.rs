//! Debian's packages, fetched and unpacked without touching what the machine has installed.
//!
//! apt itself checks the signatures. Its state and cache are ours, so an ordinary user can do it,
//! and none of the machine's own hooks run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::stamp::remove_if_there;
use crate::child;

const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// Where packages come from.
pub enum Sources<'a> {
    /// One suite of Debian, checked against Debian's own keys.
    Debian { mirror: &'a str, suite: &'a str },
    /// The same for what is to run here: `suite` first, then the machine's own Debian. What the
    /// machine has installed counts.
    Onto {
        mirror: &'a str,
        base: &'a str,
        suite: &'a str,
    },
    /// What the machine's own apt is set to.
    Machine,
}

impl<'a> Sources<'a> {
    /// The mirror and its suites, each once.
    fn debian(&self) -> Option<(&'a str, impl Iterator<Item = &'a str>)> {
        let (mirror, suites) = match *self {
            Self::Debian { mirror, suite } => (mirror, [Some(suite), None]),
            Self::Onto {
                mirror,
                base,
                suite,
            } => (mirror, [Some(suite), (base != suite).then_some(base)]),
            Self::Machine => return None,
        };
        Some((mirror, suites.into_iter().flatten()))
    }
}

/// An apt with lists and a cache of its own.
pub struct Apt {
    dir: PathBuf,
    config: PathBuf,
}

impl Apt {
    /// Fetches the lists of `sources`; everything stays under `dir`.
    pub fn update(dir: PathBuf, sources: &Sources<'_>) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial", "debs"] {
            fs::create_dir_all(dir.join(part))
                .with_context(|| format!("failed to make {}", dir.join(part).display()))?;
        }
        let dir = dir.canonicalize()?;
        let mut config = inherited_config()?;
        for (name, value) in [
            ("Dir::Etc::main", "/dev/null".into()),
            ("Dir::Etc::parts", "/dev/null".into()),
            ("Dir::State::lists", dir.join("lists").display().to_string()),
            ("Dir::Cache", dir.join("cache").display().to_string()),
            ("Acquire::Languages", "none".into()),
            ("Acquire::Retries", "2".into()),
            ("Acquire::http::Timeout", "20".into()),
            ("Acquire::https::Timeout", "20".into()),
        ] {
            config.push_str(&format!("{name} \"{value}\";\n"));
        }
        if rustix::process::geteuid().is_root() {
            // Root's apt would otherwise drop to a user who cannot write here.
            config.push_str("APT::Sandbox::User \"root\";\n");
        }
        if let Some((mirror, suites)) = sources.debian() {
            let list = dir.join("debian.list");
            let keyring = keyring()?;
            let lines =
                suites.map(|suite| format!("deb [signed-by={keyring}] {mirror} {suite} main\n"));
            fs::write(&list, lines.collect::<String>())?;
            config.push_str(&format!(
                "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"/dev/null\";\n",
                list.display()
            ));
            config.push_str(&match sources {
                Sources::Onto { suite, .. } => format!("APT::Default-Release \"{suite}\";\n"),
                _ => "Dir::State::status \"/dev/null\";\n".to_owned(),
            });
        }
        let apt = Self {
            config: dir.join("apt.conf"),
            dir,
        };
        fs::write(&apt.config, config)?;
        let update = child::stdout_of(apt.command("apt-get").args(["-qq", "update"]));
        match sources {
            Sources::Debian { .. } | Sources::Onto { .. } => update.map(drop)?,
            // Another party's broken source must not stand in the way: what is missing shows later.
            Sources::Machine => drop(update),
        }
        Ok(apt)
    }

    /// The packages whose names begin so.
    pub fn names(&self, beginning: &str) -> Result<Vec<String>> {
        let names = child::stdout_of(self.command("apt-cache").args(["pkgnames", beginning]))?;
        Ok(unique_lines(&names))
    }

    /// The versions of a package that the sources hold, as `apt-cache madison` lists them.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let madison = child::stdout_of(self.command("apt-cache").args(["madison", package]))?;
        Ok(versions(&madison))
    }

    /// The packages that this machine lacks for `wanted`, which count as lacking themselves.
    pub fn closure(&self, wanted: &[&str]) -> Result<Vec<String>> {
        let plan = child::stdout_of(
            self.command("apt-get")
                .args([
                    "install",
                    "--simulate",
                    "--reinstall",
                    "--no-install-recommends",
                ])
                .args(wanted),
        )?;
        let packages = installs(&plan);
        if packages.is_empty() {
            bail!("apt offers no package for {}", wanted.join(" and "));
        }
        Ok(packages)
    }

    /// Downloads packages (`name` or `name=version`) and unpacks them into `root`.
    pub fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let debs = self.dir.join("debs");
        remove_if_there(&debs)?;
        fs::create_dir_all(&debs)?;
        fs::create_dir_all(root)?;
        child::stdout_of(
            self.command("apt-get")
                .args(["-qq", "download"])
                .args(packages)
                .current_dir(&debs),
        )?;
        for deb in fs::read_dir(&debs)? {
            child::stdout_of(child::command("dpkg").arg("-x").arg(deb?.path()).arg(root))?;
        }
        remove_if_there(&debs)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = child::command(program);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }
}

/// The mirrors of Debian that the machine's own apt is set to, best first.
///
/// With lists on the machine their origin says which ones are Debian's. Without, every source is a
/// candidate: Debian's keys tell them apart.
pub fn mirrors() -> Result<Vec<String>> {
    let targets = |more: &[&str]| {
        child::stdout_of(
            child::command("apt-get")
                .args([
                    "indextargets",
                    "--format",
                    "$(REPO_URI)",
                    "Created-By: Packages",
                ])
                .args(more)
                .env("LC_ALL", "C"),
        )
    };
    let mut known = targets(&["Origin: Debian", "Label: Debian"])?;
    // Security updates come from a place of their own.
    known += &targets(&["Origin: Debian", "Label: Debian-Security"])?;
    let mirrors = unique_lines(&known);
    if !mirrors.is_empty() {
        return Ok(mirrors);
    }
    Ok(unique_lines(&targets(&["--no-release-info"])?))
}

/// The version that Debian made from exactly this release: `1.95.0+dfsg1-1`, not `1.95.0~beta.3`.
pub fn version_of_release<'a>(versions: &'a [String], release: &str) -> Option<&'a str> {
    versions.iter().map(String::as_str).find(|version| {
        version
            .strip_prefix(release)
            .is_some_and(|rest| rest.starts_with(['+', '-']))
    })
}

fn versions(madison: &str) -> Vec<String> {
    madison
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(|version| version.trim().to_owned())
        .collect()
}

fn installs(plan: &str) -> Vec<String> {
    plan.lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn unique_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().map(|line| line.trim_end_matches('/')) {
        if !line.is_empty() && !lines.iter().any(|known| known == line) {
            lines.push(line.to_owned());
        }
    }
    lines
}

/// How this machine's apt reaches the network: proxies and credentials, but no hooks.
fn inherited_config() -> Result<String> {
    let dump = child::stdout_of(child::command("apt-config").arg("dump"))?;
    Ok(kept_config(&dump))
}

fn kept_config(dump: &str) -> String {
    dump.lines()
        .filter(|line| line.starts_with("Acquire::") && !line.starts_with("Acquire::IndexTargets"))
        .flat_map(|line| [line, "\n"])
        .collect()
}

fn keyring() -> Result<&'static str> {
    KEYRINGS
        .into_iter()
        .find(|path| Path::new(path).exists())
        .with_context(|| {
            format!(
                "no {}: install the package debian-archive-keyring",
                KEYRINGS[0]
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MADISON: &str = "\
  rust-src | 1.96.1+dfsg1-1~bpo13+1 | mirror trixie-backports/main amd64 Packages
  rust-src | 1.95.0~beta.3+dfsg1-1 | mirror trixie-backports/main amd64 Packages
  rust-src | 1.95.0+dfsg1-2~bpo13+1 | mirror trixie-backports/main amd64 Packages
  rust-src | 1.85.0+dfsg3-1 | mirror trixie/main amd64 Packages
";

    #[test]
    fn the_exact_release_is_picked_among_several_and_never_a_beta() {
        let versions = versions(MADISON);
        assert_eq!(versions.len(), 4);
        assert_eq!(
            version_of_release(&versions, "1.95.0"),
            Some("1.95.0+dfsg1-2~bpo13+1")
        );
        assert_eq!(
            version_of_release(&versions, "1.96.1"),
            Some("1.96.1+dfsg1-1~bpo13+1")
        );
        for absent in ["1.95", "1.9", "1.96.0", "1.95.0-nightly", "5.0"] {
            assert_eq!(version_of_release(&versions, absent), None, "{absent}");
        }
    }

    #[test]
    fn a_longer_release_number_is_another_release() {
        let versions = ["1.95.01+dfsg1-1".to_owned(), "1.95.0.1-1".to_owned()];
        assert_eq!(version_of_release(&versions, "1.95.0"), None);
    }

    #[test]
    fn only_what_would_be_installed_is_fetched() {
        let plan = "NOTE: simulated\nRemv old [1]\nInst libluajit-5.1-2 (2.1 Debian [amd64])\n\
            Inst wrk [4.1] (4.1 Debian [amd64])\nConf wrk (4.1 Debian [amd64])\n";
        assert_eq!(installs(plan), ["libluajit-5.1-2", "wrk"]);
    }

    #[test]
    fn proxies_are_kept_and_hooks_are_not() {
        let dump = "APT::Update::Post-Invoke:: \"rm -f everything\";\n\
            Acquire::http::Proxy \"http://proxy:3142\";\nAcquire::IndexTargets::deb::Icons \"\";\n";
        assert_eq!(
            kept_config(dump),
            "Acquire::http::Proxy \"http://proxy:3142\";\n"
        );
    }

    #[test]
    fn a_mirror_counts_once_with_or_without_its_last_slash() {
        assert_eq!(unique_lines("a/\na\n\nb/\na/\n"), ["a", "b"]);
    }
}
