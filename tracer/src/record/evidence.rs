/// What a verdict rests on, in words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// What the rule says that gave the verdict.
    pub words: &'static [&'static str],
    /// A process still held the socket when the FIN came: half of the connection was closed.
    pub half_close: bool,
}

impl Evidence {
    const HALF_CLOSE: &'static [&'static str] = &["half-close: a process still held the socket"];

    /// The sentences.
    pub fn iter(&self) -> impl Iterator<Item = &'static str> + use<> {
        let half_close = match self.half_close {
            true => Self::HALF_CLOSE,
            false => &[],
        };
        self.words.iter().chain(half_close).copied()
    }
}
