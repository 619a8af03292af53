// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! From an address in the bridge's windows to the function and BAR that answer it.
//!
//! The guest chooses the addresses. No two BARs are ever in the map at one address, none reaches out of a window, and an
//! access that is not wholly in one BAR finds nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bus::Window;
use super::function::PciFunction;

#[derive(Debug)]
struct Mapped {
    end: u64,
    bar: u8,
    function: Arc<dyn PciFunction>,
}

/// BARs by their first address. There are as many at most as all functions have together.
#[derive(Debug, Default)]
pub(super) struct AddressMap(BTreeMap<u64, Mapped>);

impl AddressMap {
    /// Puts a BAR on its addresses, and says whether that is possible.
    pub(super) fn insert(
        &mut self,
        windows: &[Window],
        start: u64,
        size: u64,
        function: &Arc<dyn PciFunction>,
        bar: u8,
    ) -> bool {
        let Some(end) = start.checked_add(size) else { return false };
        let in_window = windows.iter().any(|window| window.base <= start && end <= window.end());
        // Of all that start before its end, the last one reaches furthest.
        let overlaps = self.0.range(..end).next_back().is_some_and(|(_, before)| before.end > start);
        if !in_window || overlaps {
            return false;
        }
        self.0.insert(start, Mapped { end, bar, function: function.clone() });
        true
    }

    pub(super) fn remove(&mut self, start: u64) {
        self.0.remove(&start);
    }

    /// Who answers `len` bytes at `address`: a function, its BAR, and the offset into that.
    pub(super) fn find(&self, address: u64, len: usize) -> Option<(Arc<dyn PciFunction>, u8, u64)> {
        let end = address.checked_add(u64::try_from(len).ok()?)?;
        let (start, mapped) = self.0.range(..=address).next_back()?;
        let inside = address < mapped.end && end <= mapped.end;
        inside.then(|| (mapped.function.clone(), mapped.bar, address.wrapping_sub(*start)))
    }
}
