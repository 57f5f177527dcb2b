//! Quantities: exact numbers, UCUM units, and their way to integers at a metric's scale.
//!
//! Nothing here computes in floating point. A number is taken exactly as it was written (decimal text, or the exact value of a
//! binary float), a unit conversion is an exact rational with an offset, and there is one rounding, half to even, at the end.

mod conversion;
mod number;
mod ratio;
mod unit;

pub use conversion::{Conversion, NotRepresentable, Quantizer};
pub use number::{Number, NumberError};
pub use unit::{Unit, UnitError};
