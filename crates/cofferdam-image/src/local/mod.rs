//! Images in directories and archives, of which nothing is believed and no name is followed.

mod layout;

pub use layout::Layout;
