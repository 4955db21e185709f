//! The file system that the kernel begins with, and never leaves: all that runs inside.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use cpio::newc;

use super::guest::Script;
use crate::{
    child,
    setup::Kernel,
    test::{Binaries, Binary},
};

/// Programs that the tests inside start, each as this machine or set-up has it.
const PROGRAMS: [&str; 5] = ["ip", "tc", "ss", "nginx", "wrk"];

/// What has to be there for something to be mounted on or written to.
const DIRECTORIES: [&str; 9] = [
    "/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/bin", "/etc", "/var/tmp",
];

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;

/// What the file system holds, by path.
pub struct Initramfs {
    entries: BTreeMap<PathBuf, Entry>,
}

enum Entry {
    Directory,
    Text(String, u32),
    /// A copy of this file of the host's.
    Copy(PathBuf),
}

impl Initramfs {
    /// Everything where the host has it, so that paths which were compiled in hold inside too.
    pub fn new(
        kernel: &Kernel,
        binaries: &Binaries,
        chosen: &[&Binary],
        script: &Script,
        tools: &[PathBuf],
    ) -> Result<Self> {
        let mut made = Self {
            entries: BTreeMap::new(),
        };
        for directory in DIRECTORIES {
            made.add(Path::new(directory), Entry::Directory);
        }
        made.add("/init", Entry::Text(script.text().to_owned(), PROGRAM));
        made.add("/bin/busybox", Entry::Copy(kernel.busybox()));
        let users = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
        made.add("/etc/passwd", Entry::Text(users.into(), PLAIN));
        let groups = "root:x:0:\nnogroup:x:65534:\n";
        made.add("/etc/group", Entry::Text(groups.into(), PLAIN));
        let protocols = "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\n";
        made.add("/etc/protocols", Entry::Text(protocols.into(), PLAIN));
        for module in kernel.modules()? {
            let name = module.file_name().context("a module has a name")?;
            made.add(
                Path::new("/modules").join(name),
                Entry::Copy(module.clone()),
            );
        }
        // Fetched programs are started with the libraries beside them.
        for directory in tools {
            made.add_tree(directory.parent().unwrap_or(directory))?;
        }
        for program in PROGRAMS {
            if tools
                .iter()
                .any(|directory| directory.join(program).exists())
            {
                continue;
            }
            let file = child::on_path(program)
                .with_context(|| format!("the tests inside need `{program}`"))?;
            made.add_program(&file)?;
        }
        for binary in chosen {
            made.add_program(&binary.executable)?;
            made.add(&binary.package, Entry::Directory);
            // Scripts and snapshots that tests read as they run.
            made.add_tree(&binary.package.join("tests"))?;
        }
        for (_, program) in binaries.programs() {
            made.add_program(program)?;
        }
        Ok(made)
    }

    /// Writes it as the archive that the kernel unpacks. Not compressed: unpacking would be
    /// emulated, copying hardly is.
    pub fn write(&self, to: &Path) -> Result<()> {
        let failed = || format!("failed to write {}", to.display());
        let mut archive = BufWriter::new(File::create(to).with_context(failed)?);
        for (number, (path, entry)) in (1..).zip(&self.entries) {
            let name = path.strip_prefix("/").unwrap_or(path).to_string_lossy();
            let mode = match entry {
                Entry::Directory => DIRECTORY,
                Entry::Text(_, mode) => *mode,
                Entry::Copy(_) => PROGRAM,
            };
            let contents = match entry {
                Entry::Directory => Vec::new(),
                Entry::Text(text, _) => text.clone().into_bytes(),
                Entry::Copy(from) => {
                    fs::read(from).with_context(|| format!("failed to read {}", from.display()))?
                }
            };
            let size = u32::try_from(contents.len())
                .with_context(|| format!("{name} is too large for an archive"))?;
            let mut file = newc::Builder::new(&name)
                .ino(number)
                .mode(mode)
                .write(&mut archive, size);
            file.write_all(&contents).with_context(failed)?;
            file.finish().with_context(failed)?;
        }
        newc::trailer(&mut archive).with_context(failed)?;
        archive.flush().with_context(failed)
    }

    fn add(&mut self, path: impl AsRef<Path>, entry: Entry) {
        let path = path.as_ref();
        for parent in path.ancestors().skip(1).filter(|it| it.parent().is_some()) {
            self.entries
                .entry(parent.to_owned())
                .or_insert(Entry::Directory);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// A program of the host's and the libraries that it asks for.
    fn add_program(&mut self, file: &Path) -> Result<()> {
        let listed = child::stdout_of(child::command("ldd").arg(file).env("LC_ALL", "C"));
        // One without libraries is an error to ldd: it runs alone.
        for library in libraries(&listed.unwrap_or_default()) {
            self.add(library, Entry::Copy(library.into()));
        }
        self.add(file, Entry::Copy(file.to_owned()));
        Ok(())
    }

    fn add_tree(&mut self, directory: &Path) -> Result<()> {
        let mut pending = vec![directory.to_owned()];
        while let Some(directory) = pending.pop() {
            self.add(&directory, Entry::Directory);
            let entries = fs::read_dir(&directory)
                .with_context(|| format!("failed to read {}", directory.display()))?;
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    pending.push(path);
                } else if path.is_file() && path.extension().is_none_or(|it| it != "rs") {
                    self.add(&path, Entry::Copy(path.clone()));
                }
            }
        }
        Ok(())
    }
}

/// The files that ldd's lines name: `libc.so.6 => /lib/…/libc.so.6 (0x…)`, `/lib64/ld-….so (0x…)`.
fn libraries(listed: &str) -> impl Iterator<Item = &str> {
    listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_files_and_the_kernels_own_is_none() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            libraries(listed).collect::<Vec<_>>(),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
    }

    #[test]
    fn a_file_comes_behind_its_directories() {
        let mut made = Initramfs {
            entries: BTreeMap::new(),
        };
        made.add("/a/b/c", Entry::Text("text".into(), PLAIN));
        let paths: Vec<_> = made.entries.keys().map(PathBuf::as_path).collect();
        assert_eq!(paths, ["/a", "/a/b", "/a/b/c"].map(Path::new));
    }
}
