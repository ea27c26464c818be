// SPDX-License-Identifier: Apache-2.0

// Package knowledge holds facts that others have found out, as embedded
// tables: numbers and names of errors, lines of logs and what they mean, the
// texts of findings, driver branches. Each table says when it was true ("as
// of") and where each row comes from. The package reads its tables and looks
// things up; what follows from them is for explain, lint, doctor and image.
package knowledge
