// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Whether a device's thread moves much, or little that somebody waits for.
//!
//! Where the thread shares a processor with who it works for, being woken for each frame means that it takes the
//! processor away from the driver or the sender just when that has made one frame, and so never finds more than one. Then it
//! should rather wait its turn, and find many. A single small frame is better off the other way: somebody waits for it.

use crate::sys::scheduling;

/// How much a turn with a long frame counts.
const LONG: u32 = 4;
/// Bytes of a long frame.
const LONG_FRAME: usize = 4096;
/// From how much on a pair moves much.
const MUCH: u32 = 8;
/// What is never exceeded, so that a change shows soon.
const MOST: u32 = 16;

/// What a queue has moved in a turn: frames of a network, or packets of sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) frames: u32,
    /// Bytes of the longest of them.
    pub(super) longest: usize,
}

impl Moved {
    /// One frame more.
    pub(super) fn add(&mut self, bytes: usize) {
        self.frames = self.frames.saturating_add(1);
        self.longest = self.longest.max(bytes);
    }
}

/// What a thread has been doing lately.
#[derive(Debug, Default)]
struct Pace {
    score: u32,
    /// The last frames went to the guest.
    inward: bool,
    moves_much: bool,
}

impl Pace {
    /// Takes in a turn. `Some`: it has come to move much, or doesn't any more.
    fn note(&mut self, received: Moved, sent: Moved) -> Option<bool> {
        let is_one_way = match (received.frames, sent.frames) {
            (0, 0) => return None,
            (0, more) => !std::mem::replace(&mut self.inward, false) || more > 1,
            (more, 0) => std::mem::replace(&mut self.inward, true) || more > 1,
            (..) => false,
        };
        let is_long = received.longest.max(sent.longest) >= LONG_FRAME;
        self.score = match (is_long, is_one_way) {
            (true, _) => self.score.saturating_add(LONG),
            (false, true) => self.score.saturating_add(1),
            (false, false) => self.score.saturating_sub(1),
        }
        .min(MOST);
        let moves_much = if self.moves_much { self.score > 0 } else { self.score >= MUCH };
        (std::mem::replace(&mut self.moves_much, moves_much) != moves_much).then_some(moves_much)
    }
}

/// Has the thread that calls it wait its turn while it moves much.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    pace: Pace,
    /// It does, by our own choice.
    is_patient: bool,
}

impl Pacer {
    /// Takes in what was moved to the driver and from it in a turn.
    pub(super) fn note(&mut self, received: Moved, sent: Moved) {
        match self.pace.note(received, sent) {
            // A host that doesn't let us is as it was.
            Some(true) => self.is_patient = scheduling::become_patient().unwrap_or(false),
            Some(false) => self.stop_waiting(),
            None => {}
        }
    }

    /// Forgets what was moved: the thread runs as soon as it is woken.
    pub(super) fn hurry(&mut self) {
        self.pace = Pace::default();
        self.stop_waiting();
    }

    fn stop_waiting(&mut self) {
        if std::mem::take(&mut self.is_patient) {
            let _ = scheduling::become_impatient();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Moved = Moved { frames: 0, longest: 0 };

    fn moved(frames: u32, longest: usize) -> Moved {
        Moved { frames, longest }
    }

    /// What comes of these turns, again and again.
    fn becomes(pace: &mut Pace, turns: &[(Moved, Moved)]) -> Option<bool> {
        (0..100).flat_map(|_| turns).filter_map(|(received, sent)| pace.note(*received, *sent)).last()
    }

    #[test]
    fn questions_and_answers_are_little_and_streams_and_floods_are_much() {
        let (question, answer) = ((moved(1, 67), NONE), (NONE, moved(1, 67)));
        let pace = &mut Pace::default();
        assert_eq!(becomes(pace, &[question, answer, (NONE, NONE)]), None);
        assert_eq!(
            becomes(pace, &[(NONE, moved(1, 65_000)), (moved(1, 66), NONE)]),
            Some(true),
            "a stream, acknowledged"
        );
        assert_eq!(becomes(pace, &[question, answer]), Some(false));
        assert_eq!(becomes(pace, &[(moved(1, 106), NONE)]), Some(true), "a flood");
        assert_eq!(becomes(pace, &[(moved(1, 67), moved(1, 67))]), Some(false), "both in one turn");
        assert_eq!(becomes(pace, &[(NONE, moved(40, 106))]), Some(true));
        assert_eq!(becomes(pace, &[(NONE, NONE)]), None);
    }
}
