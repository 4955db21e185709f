//! Kernels of Debian's to boot in an emulator, each with the modules that tests need and a static
//! busybox to begin with. Under target/setup/vm; nothing is installed.
//!
//! What is there is kept: remove target/setup/vm/VERSION to fetch the newest of that series.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use object::{Object as _, ObjectSection as _};

use super::{
    apt::{self, Apt, Sources},
    lock, say,
    stamp::{Stamp, remove_if_there},
    tree,
};
use crate::{child, workspace::Workspace};

/// Each series by the first two numbers of its version, and the suites that may hold it.
const SERIES: [(&str, &[&str]); 4] = [
    ("6.1", &["bookworm-security", "bookworm"]),
    ("6.12", &["trixie-security", "trixie"]),
    ("6.18", &["trixie-backports", "trixie"]),
    ("7.3", &["trixie-backports", "trixie"]),
];

/// For virtual machines: the smallest of Debian's, and the first to run.
const FLAVOUR: &str = "-cloud-amd64";

/// What tests use that may be a module, and the option that it comes with.
const MODULES: [(&str, &str); 6] = [
    ("inet_diag", "INET_DIAG"),
    ("tcp_diag", "INET_TCP_DIAG"),
    ("tun", "TUN"),
    ("veth", "VETH"),
    ("dummy", "DUMMY"),
    ("sch_tbf", "NET_SCH_TBF"),
];

/// What else the kernel must have been built with.
const BUILT_IN: [&str; 7] = [
    "DEBUG_INFO_BTF",
    "BPF_JIT",
    "BPF_EVENTS",
    "INET_DIAG_DESTROY",
    "IPV6",
    "MPTCP",
    "SERIAL_8250_CONSOLE",
];

/// A kernel, ready to boot.
#[derive(Debug)]
pub struct Kernel {
    /// The series: `6.1`.
    pub name: String,
    /// As `uname -r` will say.
    pub release: String,
    dir: PathBuf,
}

impl Kernel {
    /// What the emulator loads.
    pub fn image(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// A file beside it, gone when another kernel of the series is fetched.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A shell and its tools, without libraries.
    pub fn busybox(&self) -> PathBuf {
        self.dir.join("busybox")
    }

    /// The modules in the order in which they load.
    pub fn modules(&self) -> Result<Vec<PathBuf>> {
        let dir = self.dir.join("modules");
        let mut modules: Vec<PathBuf> = fs::read_dir(&dir)
            .with_context(|| format!("failed to read {}", dir.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        modules.sort();
        Ok(modules)
    }
}

/// The series that can be asked for.
pub fn kernel_names() -> Vec<&'static str> {
    SERIES.into_iter().map(|(name, _)| name).collect()
}

/// Finds the kernel or fetches it.
pub fn kernel(workspace: &Workspace, name: &str) -> Result<Kernel> {
    let setup = workspace.setup();
    let _lock = lock(&setup)?;
    let dir = setup.join("vm").join(name);
    let wanted = MODULES.map(|(module, _)| module).join(" ");
    let stamp = Stamp::new(dir.join("stamp"), &[&wanted]);
    if !stamp.is_current() {
        remove_if_there(&dir)?;
        fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
        fetch(&setup, name, &dir).with_context(|| format!("failed to fetch Linux {name}"))?;
        stamp.set()?;
    }
    let release = dir.join("release");
    Ok(Kernel {
        name: name.to_owned(),
        release: fs::read_to_string(&release)
            .with_context(|| format!("failed to read {}", release.display()))?,
        dir,
    })
}

fn fetch(setup: &Path, name: &str, dir: &Path) -> Result<()> {
    if child::on_path("apt-get").is_none() {
        bail!("this machine has no apt");
    }
    let suites = SERIES.iter().find(|(series, _)| *series == name);
    let (_, suites) = suites.with_context(|| format!("no suite is known to hold {name}"))?;
    let root = dir.join("root");
    download(setup, name, suites, &root)?;
    let files = Files::below(&root)?;

    let config = files.one(|file| file.starts_with("config-") || file == "config")?;
    check(&fs::read_to_string(config)?).with_context(|| format!("{}", config.display()))?;
    let image = files.one(|file| file.starts_with("vmlinuz"))?;
    fs::copy(image, dir.join("vmlinuz"))?;
    let busybox = dir.join("busybox");
    fs::copy(files.one(|file| file == "busybox")?, &busybox)?;
    lay_modules(&files, &busybox, &dir.join("modules"))?;
    let release = files.one(|file| file == "modules.order")?;
    let release = release.parent().and_then(Path::file_name);
    let release = release.context("the modules are in a directory of the release's name")?;
    fs::write(dir.join("release"), release.to_string_lossy().as_bytes())?;
    remove_if_there(&root)
}

/// The newest of a series that any suite holds, on any mirror of this machine's.
fn download(setup: &Path, name: &str, suites: &[&str], root: &Path) -> Result<()> {
    let mut found: Vec<(Apt, Option<Package>)> = Vec::new();
    let mut failures = Vec::new();
    for mirror in apt::mirrors()? {
        for suite in suites {
            say(format_args!("looking for Linux {name} in Debian's {suite}"));
            let lists = setup.join("apt").join(format!("{suite}-{}", found.len()));
            let mirror = mirror.as_str();
            match Apt::update(lists, &Sources::Debian { mirror, suite }) {
                Ok(apt) => {
                    let newest = newest(&apt, name)?;
                    found.push((apt, newest));
                }
                Err(error) => failures.push(format!("{suite}: {error:#}")),
            }
        }
    }
    found.sort_by_key(|(_, package)| Reverse(package.as_ref().map(|it| numbers(&it.version))));
    let Some((apt, Some(package))) = found.first() else {
        bail!("no suite holds it:\n  {}", failures.join("\n  "));
    };
    say(format_args!(
        "fetching {} {}",
        package.name, package.version
    ));
    apt.unpack(&package.parts(apt)?, root)?;
    let busybox = "busybox-static";
    for (apt, _) in &found {
        if !apt.versions(busybox)?.is_empty() {
            apt.unpack(&[busybox.into()], root)?;
            return remove_if_there(&setup.join("apt"));
        }
    }
    bail!("no suite holds {busybox}")
}

struct Package {
    name: String,
    version: String,
}

impl Package {
    /// The package and those that newer ones leave configuration, kernel and modules to.
    fn parts(&self, apt: &Apt) -> Result<Vec<String>> {
        let mut parts = vec![format!("{}={}", self.name, self.version)];
        for kind in ["linux-base", "linux-binary", "linux-modules"] {
            let part = self.name.replacen("linux-image", kind, 1);
            if !apt.versions(&part)?.is_empty() {
                parts.push(part);
            }
        }
        Ok(parts)
    }
}

fn newest(apt: &Apt, series: &str) -> Result<Option<Package>> {
    let mut packages = Vec::new();
    for name in apt.names(&format!("linux-image-{series}."))? {
        if name.ends_with(FLAVOUR) {
            let versions = apt.versions(&name)?.into_iter();
            packages.extend(versions.map(|version| Package {
                name: name.clone(),
                version,
            }));
        }
    }
    Ok(packages
        .into_iter()
        .max_by_key(|package| numbers(&package.version)))
}

/// The numbers of a version: enough to order those of one series.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn check(config: &str) -> Result<()> {
    let has = |option: &str, values: &[&str]| {
        config.lines().any(|line| {
            line.strip_prefix("CONFIG_")
                .and_then(|line| line.strip_prefix(option)?.strip_prefix('='))
                .is_some_and(|value| values.contains(&value))
        })
    };
    let built_in = BUILT_IN.into_iter().filter(|option| !has(option, &["y"]));
    let modules = MODULES.into_iter().map(|(_, option)| option);
    let lacking: Vec<&str> = built_in
        .chain(modules.filter(|option| !has(option, &["y", "m"])))
        .collect();
    ensure!(lacking.is_empty(), "it lacks {}", lacking.join(", "));
    Ok(())
}

/// Lays the modules that are wanted, and those that they need, numbered in their order.
fn lay_modules(files: &Files, busybox: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let mut laid = BTreeMap::new();
    for (module, _) in MODULES {
        // What is not there as a module is built in: the configuration says that it is there.
        lay_module(files, busybox, dir, module, &mut laid)?;
    }
    Ok(())
}

fn lay_module(
    files: &Files,
    busybox: &Path,
    dir: &Path,
    module: &str,
    laid: &mut BTreeMap<String, PathBuf>,
) -> Result<()> {
    if laid.contains_key(module) {
        return Ok(());
    }
    // A file may be called with dashes what the module is called with underscores.
    let is_it = |file: &str| {
        let stem = file.split_once(".ko").map(|(stem, _)| stem);
        stem.is_some_and(|stem| stem.replace('-', "_") == module)
    };
    let Ok(packed) = files.one(is_it) else {
        return Ok(());
    };
    let whole = dir.join(format!("{module}.ko"));
    match packed.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => drop(fs::copy(packed, &whole)?),
        Some("xz") => child::succeed(
            child::command(busybox)
                .args(["unxz", "-c"])
                .arg(packed)
                .stdout(File::create(&whole)?),
        )?,
        _ => bail!("{} is packed in a way that is not known", packed.display()),
    }
    laid.insert(module.to_owned(), whole.clone());
    for needed in needs(&whole)? {
        lay_module(files, busybox, dir, &needed, laid)?;
    }
    // What it needs has its numbers by now.
    let number = fs::read_dir(dir)?
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .count();
    fs::rename(&whole, dir.join(format!("{number:02}-{module}.ko")))?;
    Ok(())
}

/// The modules that a module says it depends on.
fn needs(module: &Path) -> Result<Vec<String>> {
    let failed = || format!("failed to read {}", module.display());
    let bytes = fs::read(module).with_context(failed)?;
    let file = object::File::parse(&*bytes).with_context(failed)?;
    let information = file.section_by_name(".modinfo").with_context(failed)?;
    Ok(depends(information.data().with_context(failed)?))
}

fn depends(information: &[u8]) -> Vec<String> {
    information
        .split(|byte| *byte == 0)
        .filter_map(|line| str::from_utf8(line).ok()?.strip_prefix("depends="))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// All files of a tree.
struct Files(Vec<PathBuf>);

impl Files {
    fn below(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        tree::visit(root, |entry| {
            if entry.file_type()?.is_file() {
                files.push(entry.path());
            }
            Ok(())
        })?;
        Ok(Self(files))
    }

    /// One whose name is as asked for.
    fn one(&self, is_it: impl Fn(&str) -> bool) -> Result<&Path> {
        self.0
            .iter()
            .find(|file| {
                file.file_name()
                    .is_some_and(|name| is_it(&name.to_string_lossy()))
            })
            .map(PathBuf::as_path)
            .context("the packages lack a file that they should have")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_told_by_number_and_not_by_letter() {
        assert!(numbers("6.1.176-1") > numbers("6.1.99-1"));
        assert!(numbers("6.18.15-1~bpo13+1") > numbers("6.18.9-1~bpo13+1"));
    }

    #[test]
    fn a_kernel_without_what_the_tests_need_is_refused_by_name() {
        let mut config: String = BUILT_IN
            .into_iter()
            .map(|option| format!("CONFIG_{option}=y\n"))
            .collect();
        for (_, option) in MODULES {
            config += &format!("CONFIG_{option}=m\n");
        }
        check(&config).unwrap();
        let without = config
            .replace("CONFIG_TUN=m", "# CONFIG_TUN is not set")
            .replace("CONFIG_MPTCP=y", "CONFIG_MPTCP=m");
        let error = check(&without).unwrap_err().to_string();
        assert_eq!(error, "it lacks MPTCP, TUN");
    }

    #[test]
    fn what_a_module_needs_is_in_its_own_words() {
        let information = b"license=GPL\0depends=inet-diag,tun\0intree=Y\0";
        assert_eq!(depends(information), ["inet_diag", "tun"]);
        assert_eq!(depends(b"depends=\0"), Vec::<String>::new());
    }
}
