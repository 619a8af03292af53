// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The keys of the VMM itself, taken out of what a person types: they all start with Ctrl-a.

/// Ctrl-a.
const PREFIX: u8 = 0x01;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// End the VM at once.
    Stop,
    /// Press the power button.
    PowerButton,
    /// Leave a console whose VM is another process's.
    Leave,
    /// Show the keys.
    Help,
}

/// Finds the keys in a stream of bytes, however it is cut into reads.
#[derive(Debug, Default)]
pub(crate) struct Escape {
    after_prefix: bool,
}

impl Escape {
    /// Takes the keys out of `bytes`: what is for the guest moves to the front, and its length is given back.
    pub(crate) fn filter(&mut self, bytes: &mut [u8], mut act: impl FnMut(Action)) -> usize {
        let mut kept = 0;
        for at in 0..bytes.len() {
            let byte = bytes[at];
            if !std::mem::take(&mut self.after_prefix) {
                if byte == PREFIX {
                    self.after_prefix = true;
                    continue;
                }
            } else {
                match byte {
                    b'x' | b'X' => act(Action::Stop),
                    b'p' | b'P' => act(Action::PowerButton),
                    b'd' | b'D' => act(Action::Leave),
                    b'h' | b'H' | b'?' => act(Action::Help),
                    // Ctrl-a twice sends it once.
                    PREFIX | b'a' => {
                        bytes[kept] = PREFIX;
                        kept += 1;
                    }
                    _ => (),
                }
                continue;
            }
            bytes[kept] = byte;
            kept += 1;
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_in(pieces: &[&[u8]]) -> (Vec<u8>, Vec<Action>) {
        let (mut escape, mut seen, mut actions) = (Escape::default(), Vec::new(), Vec::new());
        for piece in pieces {
            let mut bytes = piece.to_vec();
            let kept = escape.filter(&mut bytes, |action| actions.push(action));
            seen.extend_from_slice(&bytes[..kept]);
        }
        (seen, actions)
    }

    #[test]
    fn keys_are_found_and_everything_else_reaches_the_guest() {
        assert_eq!(type_in(&[b"ls\x03\n"]), (b"ls\x03\n".to_vec(), vec![]));
        assert_eq!(type_in(&[b"a\x01xb"]), (b"ab".to_vec(), vec![Action::Stop]));
        assert_eq!(type_in(&[b"\x01", b"", b"h", b"h"]), (b"h".to_vec(), vec![Action::Help]));
        assert_eq!(type_in(&[b"\x01p\x01x"]), (vec![], vec![Action::PowerButton, Action::Stop]));
        assert_eq!(type_in(&[b"\x01\x01\x01a"]), (vec![1, 1], vec![]));
        assert_eq!(type_in(&[b"\x01d"]), (vec![], vec![Action::Leave]));
        assert_eq!(type_in(&[b"\x01zx"]), (b"x".to_vec(), vec![]));
    }
}
