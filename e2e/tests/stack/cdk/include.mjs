// Includes the template of a release in a CDK stack, as docs/cdk.md shows, and prints what CDK makes of it.
import { App, Stack } from 'aws-cdk-lib';
import { CfnInclude } from 'aws-cdk-lib/cloudformation-include';

const app = new App();
const stack = new Stack(app, 'ringback');
new CfnInclude(stack, 'Ringback', { templateFile: process.argv[2] });
console.log(JSON.stringify(app.synth().getStackByName('ringback').template));
