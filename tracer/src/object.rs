//! The BPF object inside this program.

/// Aligned as the ELF reader wants it; empty where the build found no object.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer.bpf.o"));

/// The BPF programs to load, or `None` in a build that has none.
///
/// A plain `cargo build` embeds what is in the target directory, and nothing where nothing is.
/// `cargo xtask build` makes the object first.
pub fn object() -> Option<&'static [u8]> {
    Some(OBJECT).filter(|object| !object.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedded_object_is_one_for_bpf_and_aligned() {
        const EM_BPF: u16 = 247;
        let Some(object) = object() else { return };
        assert!(object.starts_with(b"\x7fELF"));
        assert_eq!(u16::from_ne_bytes([object[18], object[19]]), EM_BPF);
        assert_eq!(object.as_ptr().align_offset(8), 0);
    }
}
