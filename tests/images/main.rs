//! Are the catalog, the recipes and the demo image what they say they are?

mod catalog;
mod demo;
mod scripts;
