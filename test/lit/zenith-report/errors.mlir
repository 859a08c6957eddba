// One line, status 1, and the page that was there stays.
// RUN: echo before > %t.html
// RUN: not zenith-report %s -o %t.html 2>&1 | filecheck %s --check-prefix=PARSE
// RUN: not zenith-report %s --pass-pipeline=nothing-such -o %t.html 2>&1 | filecheck %s --check-prefix=PASS
// RUN: not zenith-report %s --pass cse --pass-pipeline=cse 2>&1 | filecheck %s --check-prefix=BOTH
// RUN: not zenith-report %s -o %t.nowhere/page.html 2>&1 | filecheck %s --check-prefix=WHERE
// RUN: not zenith-report %t.missing 2>&1 | filecheck %s --check-prefix=MISSING
// RUN: not zenith-report --nothing 2>&1 | filecheck %s --check-prefix=OPTION
// RUN: cat %t.html | filecheck %s --check-prefix=KEPT

// PARSE: zenith-report: error: {{.*}}errors.mlir:{{[0-9]+:[0-9]+}}: custom op 'this' is unknown
// PARSE-NOT: Traceback
// PASS: zenith-report: error: {{.*}}nothing-such
// PASS-NOT: Traceback
// BOTH: zenith-report: error: give --pass or --pass-pipeline, not both
// WHERE: zenith-report: error: cannot write {{.*}} there is no directory
// MISSING: zenith-report: error: {{.*}}missing
// OPTION: zenith-report: error: {{.*}}--nothing
// KEPT: before

this is no module
