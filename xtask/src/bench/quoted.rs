//! README quotes the table of the kept results, between two marks.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

const BEGIN: &str = "<!-- cargo xtask bench table: begin -->\n";
const END: &str = "<!-- cargo xtask bench table: end -->\n";

/// Puts `table` between the marks.
pub fn write(readme: &Path, table: &str) -> Result<()> {
    let text = fs::read_to_string(readme)
        .with_context(|| format!("failed to read {}", readme.display()))?;
    let (before, _, after) =
        parts(&text).with_context(|| format!("{} has no marks for the table", readme.display()))?;
    fs::write(readme, format!("{before}{table}{after}"))
        .with_context(|| format!("failed to write {}", readme.display()))
}

/// What stands up to the marks, between them, and after.
fn parts(text: &str) -> Option<(&str, &str, &str)> {
    let begin = text.find(BEGIN)? + BEGIN.len();
    let end = begin + text[begin..].find(END)?;
    Some((&text[..begin], &text[begin..end], &text[end..]))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{
        super::{figure::Results, kept, page},
        *,
    };

    #[test]
    fn readme_quotes_what_the_kept_results_say() {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
        let readme = fs::read_to_string(root.join("README.md")).unwrap();
        let (_, quoted, _) = parts(&readme).expect("README has the marks");
        let kept = kept(&root);
        let table = if kept.exists() {
            page::table(&Results::read(&kept).unwrap())
        } else {
            // Nothing has been measured yet.
            String::new()
        };
        assert_eq!(
            quoted, table,
            "README differs from the results: run `cargo xtask bench table --write`"
        );
    }

    #[test]
    fn the_table_goes_between_the_marks_and_nothing_else_changes() {
        let text = format!("a\n{BEGIN}old\n{END}b\n");
        let (before, old, after) = parts(&text).unwrap();
        assert_eq!(old, "old\n");
        assert_eq!(
            format!("{before}new\n{after}"),
            format!("a\n{BEGIN}new\n{END}b\n")
        );
        assert_eq!(parts("no marks"), None);
    }
}
