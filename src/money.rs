//! Money: integer nano-dollars, computed exactly and rounded once.
//!
//! Touches nothing.

#![warn(clippy::arithmetic_side_effects)]

use rust_decimal::prelude::ToPrimitive;
use rust_decimal::{Decimal, RoundingStrategy};
use serde::{Deserialize, Serialize};

/// US dollars × 10⁻⁹. A call's cost is computed exactly and rounded once per token kind, half to even.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NanoUsd(i64);

impl NanoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// `amount` nano-dollars.
    pub const fn new(amount: i64) -> Self {
        Self(amount)
    }

    /// The amount as an integer of nano-dollars.
    pub const fn as_i64(self) -> i64 {
        self.0
    }

    /// `dollars` rounded half to even; `None` past ± 9.2 billion dollars.
    pub fn from_dollars(dollars: Decimal) -> Option<Self> {
        dollars
            .checked_mul(Decimal::from(1_000_000_000_u64))?
            .round_dp_with_strategy(0, RoundingStrategy::MidpointNearestEven)
            .to_i64()
            .map(Self)
    }

    /// The sum; `None` past ± 9.2 billion dollars.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The amount in dollars, exactly.
    pub fn as_dollars(self) -> Decimal {
        Decimal::from_i128_with_scale(i128::from(self.0), 9).normalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_to_even_and_the_rest_to_nearest() {
        let nano = |text: &str| NanoUsd::from_dollars(text.parse().unwrap()).unwrap().as_i64();
        assert_eq!(nano("0.0000000005"), 0);
        assert_eq!(nano("0.0000000015"), 2);
        assert_eq!(nano("0.0000000014"), 1);
        assert_eq!(nano("1.25"), 1_250_000_000);
        assert_eq!(NanoUsd::from_dollars("10000000000".parse().unwrap()), None);
        assert_eq!(NanoUsd::new(1_250_000_000).as_dollars().to_string(), "1.25");
    }
}
