//! Figures: numbers as people read them, so written that rows visibly add up to their total.

use super::MonthReport;

/// Nano-dollars a dollar has digits behind the point.
const NANO_DIGITS: u32 = 9;
/// Digits behind the point that money has at least.
const CENT_DIGITS: u32 = 2;

/// A whole number with a comma before every three digits.
pub fn grouped(number: i128) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && digits.len().saturating_sub(place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// As few digits behind the point as show every row's cost in full: rounded rows would not add up to the total.
pub fn cost_digits(report: &MonthReport) -> u32 {
    let costs = || report.rows.iter().map(|row| row.counts.cost_nanousd);
    (CENT_DIGITS..NANO_DIGITS)
        .find(|digits| {
            let unit = 10_i128.pow(NANO_DIGITS.saturating_sub(*digits));
            costs().all(|cost| cost.checked_rem(unit) == Some(0))
        })
        .unwrap_or(NANO_DIGITS)
}

/// Nano-dollars as dollars with so many digits behind the point.
pub fn dollars(nanousd: i128, digits: u32) -> String {
    let nano = 10_u128.pow(NANO_DIGITS);
    let unit = 10_u128.pow(NANO_DIGITS.saturating_sub(digits));
    let amount = nanousd.unsigned_abs();
    let whole = i128::try_from(amount.checked_div(nano).unwrap_or(0)).unwrap_or(i128::MAX);
    let fraction = amount.checked_rem(nano).and_then(|rest| rest.checked_div(unit)).unwrap_or(0);
    let sign = if nanousd < 0 { "-" } else { "" };
    let width = usize::try_from(digits).unwrap_or(0);
    format!("{sign}{}.{fraction:0width$}", grouped(whole))
}

/// A share to the tenth, rounded down: 100 % means all.
pub fn percent(part: i128, whole: i128) -> String {
    let tenths = part.saturating_mul(1_000).checked_div(whole).unwrap_or(0);
    format!("{}.{} %", tenths / 10, tenths % 10)
}
