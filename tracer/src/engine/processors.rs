//! What each processor showed last, to know it again when a second program shows it too.

use tracer_common::event::flags;

use crate::stream::{Body, Event};

/// What the processors showed last.
#[derive(Default)]
pub(super) struct Processors(Vec<Processor>);

#[derive(Clone, Copy, Default)]
struct Processor {
    /// Kernel address and state of its latest reset, received and sent.
    resets: [Option<(u64, u8)>; 2],
    /// Kernel address of the latest socket that was closed without having been connected.
    unconnected: Option<u64>,
}

impl Processors {
    /// Whether a second program shows again the reset that its processor showed last. Most resets
    /// are of sockets that are none of ours, so this must not need a connection.
    pub fn is_repeated_reset(&mut self, event: &Event) -> bool {
        let (hook, state) = match event.body {
            Body::ResetReceived { state } => (0, state),
            Body::ResetSent { state, .. } => (1, state),
            _ => return false,
        };
        let shown = (event.socket.address, state);
        let last = self.of(event).resets[hook].replace(shown);
        event.flags & flags::RECOVERED != 0 && last == Some(shown)
    }

    /// Whether a second program shows again the close of a socket that is not connected which its
    /// processor showed last: no connection tells that.
    pub fn is_repeated_close(&mut self, event: &Event) -> bool {
        let processor = self.of(event);
        let shown = Some(event.socket.address);
        if event.flags & flags::RECOVERED != 0 {
            return processor.unconnected.take() == shown;
        }
        processor.unconnected = shown;
        false
    }

    fn of(&mut self, event: &Event) -> &mut Processor {
        let cpu = usize::from(event.cpu);
        if cpu >= self.0.len() {
            self.0.resize(cpu + 1, Processor::default());
        }
        &mut self.0[cpu]
    }
}
