//! What is learned, what is stated, and what it takes to hold it.

use super::*;
