// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Values of 64 bits that registers show in halves of 32.

/// The 32 bits of `features` that selector `word` names; there are only two words.
pub(super) fn feature_word(features: u64, word: u32) -> u32 {
    match word {
        0 => low(features),
        1 => high(features),
        _ => 0,
    }
}

/// Bits 0 to 31.
pub(super) fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Bits 32 to 63.
pub(super) fn high(value: u64) -> u32 {
    let [.., e, f, g, h] = value.to_le_bytes();
    u32::from_le_bytes([e, f, g, h])
}

pub(super) fn set_low(value: &mut u64, word: u32) {
    *value = *value & !0xffff_ffff | u64::from(word);
}

pub(super) fn set_high(value: &mut u64, word: u32) {
    *value = *value & 0xffff_ffff | u64::from(word) << 32;
}
