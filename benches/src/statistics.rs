// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is said of a row of measurements: the median, and how far they are apart.

/// Measurements of one thing, in one unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<f64>);

/// What is told of [`Samples`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The middle one; the mean of the two in the middle where their number is even.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Samples {
    /// Adds a measurement.
    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// Each of these by its neighbour in the others: what slowed down both at the time is not in the ratio.
    pub fn ratios(&self, others: &Self) -> Self {
        self.0.iter().zip(&others.0).map(|(ours, theirs)| ours / theirs).collect()
    }

    /// `None` where nothing was measured.
    pub fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let median = if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], upper) } else { upper };
        Some(Summary { median, min: sorted[0], max: sorted[sorted.len() - 1] })
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        for (samples, median, min, max) in
            [(&[3.0][..], 3.0, 3.0, 3.0), (&[9.0, 1.0, 2.0], 2.0, 1.0, 9.0), (&[4.0, 1.0, 100.0, 2.0], 3.0, 1.0, 100.0)]
        {
            let summary = samples.iter().copied().collect::<Samples>().summary();
            assert_eq!(summary, Some(Summary { median, min, max }));
        }
        assert_eq!(Samples::default().summary(), None);
    }

    #[test]
    fn ratios_are_those_of_neighbours() {
        let samples = |samples: &[f64]| samples.iter().copied().collect::<Samples>();
        assert_eq!(samples(&[1.0, 6.0, 9.0]).ratios(&samples(&[2.0, 2.0])), samples(&[0.5, 3.0]));
    }
}
