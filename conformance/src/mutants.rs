//! Complete stores with one defect each, made by wrapping a given provider, and the checks that must notice.
