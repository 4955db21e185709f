//! The address of one kernel function, from /proc/kallsyms.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

/// Where the kernel lists its symbols.
pub const KALLSYMS: &str = "/proc/kallsyms";

/// Why an address could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SymbolError {
    /// The list cannot be read.
    #[error("failed to read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Every address reads as 0, or the list is empty, which is how it is kept from a service.
    #[error("kernel addresses are hidden: set kernel.kptr_restrict to 0 or 1 and have CAP_SYSLOG")]
    Hidden,
    /// No such function.
    #[error("the kernel has no function {0}")]
    Absent(&'static str),
    /// More than one function of that name.
    #[error("the kernel has {count} functions {name}: which one the minisockets use is not told")]
    Ambiguous {
        /// The function.
        name: &'static str,
        /// How many.
        count: usize,
    },
}

/// The address of the function `name`, also where the compiler has added a suffix (`.llvm.123`).
///
/// # Errors
/// Where the list is unreadable, the addresses are hidden, or the name is absent or ambiguous.
pub fn address_of(path: &Path, name: &'static str) -> Result<u64, SymbolError> {
    let failed = |source| SymbolError::Read {
        path: path.display().to_string(),
        source,
    };
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(failed)?);
    let mut found = Vec::new();
    let mut line = Vec::new();
    let mut is_empty = true;
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        is_empty = false;
        found.extend(parse(&line, name.as_bytes()));
    }
    found.sort_unstable();
    found.dedup();
    match found[..] {
        [] if is_empty => Err(SymbolError::Hidden),
        [] => Err(SymbolError::Absent(name)),
        [0] => Err(SymbolError::Hidden),
        [address] => Ok(address),
        _ => Err(SymbolError::Ambiguous {
            name,
            count: found.len(),
        }),
    }
}

/// The address in a line `ffffffff81a00000 t name` or `… t name.llvm.123`.
fn parse(line: &[u8], name: &[u8]) -> Option<u64> {
    let (address, rest) = line.split_at_checked(16)?;
    let symbol = rest.strip_prefix(b" ")?.get(2..)?;
    let end = symbol.strip_prefix(name)?;
    if !(end.starts_with(b".") || end.starts_with(b"\n") || end.is_empty()) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(address).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_of_the_compiler_are_the_same_function_and_longer_names_are_not() {
        let name = b"tw_timer_handler";
        let address = Some(0xffff_ffff_81a0_0010);
        assert_eq!(
            parse(b"ffffffff81a00010 t tw_timer_handler\n", name),
            address
        );
        assert_eq!(
            parse(b"ffffffff81a00010 t tw_timer_handler.llvm.77\n", name),
            address
        );
        assert_eq!(
            parse(b"ffffffff81a00010 t tw_timer_handler_old\n", name),
            None
        );
        assert_eq!(
            parse(b"ffffffff81a00010 t __tw_timer_handler\n", name),
            None
        );
        assert_eq!(parse(b"garbage", name), None);
    }

    #[test]
    fn hidden_addresses_are_told_from_an_absent_function() {
        let path = std::env::temp_dir().join(format!("kallsyms-{}", std::process::id()));
        std::fs::write(&path, "0000000000000000 t tw_timer_handler\n").expect("a file");
        assert!(matches!(
            address_of(&path, "tw_timer_handler"),
            Err(SymbolError::Hidden)
        ));
        assert!(matches!(
            address_of(&path, "nothing"),
            Err(SymbolError::Absent("nothing"))
        ));
        std::fs::write(&path, "").expect("a file");
        assert!(matches!(address_of(&path, "f"), Err(SymbolError::Hidden)));
        std::fs::write(&path, "0000000000000001 t f\n0000000000000002 t f.llvm.1\n")
            .expect("a file");
        assert!(matches!(
            address_of(&path, "f"),
            Err(SymbolError::Ambiguous { count: 2, .. })
        ));
        std::fs::remove_file(&path).expect("removed");
    }
}
