//! The Debian package around the static binary: `[package.metadata.deb]` in tracer/Cargo.toml says
//! what is in it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::{
    child,
    setup::{self, remove_if_there},
    workspace::Workspace,
};

/// Shells, and what their completions are called where the shell looks for them.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "tracer.bash"),
    ("zsh", "_tracer"),
    ("fish", "tracer.fish"),
];

/// Packs `binary`, which was built for `target`, into `dist`; gives the path of the package.
pub fn pack(workspace: &Workspace, target: &str, binary: &Path, dist: &Path) -> Result<String> {
    let cargo_deb = setup::deb(workspace)?;
    // cargo-deb looks there for what it calls target/release.
    let share = workspace.target.join(target).join("release/share");
    let tracer = |arguments: &[&str]| child::stdout_of(child::command(binary).args(arguments));
    let lay = |file: &str, text: String| {
        let file = share.join(file);
        fs::write(&file, text).with_context(|| format!("failed to write {}", file.display()))
    };
    // Of an earlier version there may be a command that there is no more.
    remove_if_there(&share)?;
    for directory in ["man", "completions"] {
        let directory = share.join(directory);
        fs::create_dir_all(&directory)
            .with_context(|| format!("failed to make {}", directory.display()))?;
    }
    let page = tracer(&["man"])?;
    let commands = commands(&page);
    ensure!(!commands.is_empty(), "tracer(1) names no commands");
    let mut pages = vec![("man/tracer.1".to_owned(), page)];
    for command in commands {
        let page = tracer(&["man", &command])?;
        pages.push((format!("man/tracer-{command}.1"), page));
    }
    for (file, page) in pages {
        lay(&file, page)?;
        // cargo-deb packs pages of its own finding, but not those in a target directory.
        child::succeed(child::command("gzip").arg("-9n").arg(share.join(file)))?;
    }
    for (shell, file) in COMPLETIONS {
        lay(
            &format!("completions/{file}"),
            tracer(&["completions", shell])?,
        )?;
    }
    let said = child::stdout_of(
        child::command(cargo_deb)
            .args(["--package", "tracer", "--no-build", "--no-strip"])
            .args(["--target", target, "--output"])
            .arg(dist)
            .current_dir(&workspace.root),
    )?;
    Ok(said.trim().to_owned())
}

/// The commands that the manual page refers to: a line `tracer\-watch(1)` each.
fn commands(page: &str) -> Vec<String> {
    page.lines()
        .filter_map(|line| line.strip_prefix("tracer\\-")?.strip_suffix("(1)"))
        .map(|command| command.replace("\\-", "-"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_those_that_the_page_refers_to() {
        let page = ".SH SUBCOMMANDS\n.TP\ntracer\\-watch(1)\nShow closes\n.TP\ntracer\\-check(1)\n\
                    see tracer\\-watch(1)\n";
        assert_eq!(commands(page), ["watch", "check"]);
    }
}
